"""``--budget 60s``, ``--budget 2000tiles``: what a slide may cost, as people write it."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from pathgene_rt.errors import UsageError
from pathgene_rt.options import Budget

BudgetOption = Annotated[
    str | None,
    typer.Option(
        help="End a slide after e.g. 60s, 2min or 2000tiles; its report is then partial.",
        show_default=False,
    ),
]
UntilStableOption = Annotated[
    float | None,
    typer.Option(
        help="End a slide once no probability's 95 % interval is wider, e.g. 0.01.",
        show_default=False,
    ),
]

_SECONDS = {"s": 1.0, "min": 60.0}


def read_budget(budget: str | None, until_stable: float | None) -> Budget:
    """The budget that both options stand for. Raises UsageError."""
    if budget is None:
        return Budget(width=until_stable)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|tiles)", budget.strip())
    if match is None:
        raise UsageError(f"--budget {budget!r} is not understood; give e.g. 60s, 2min or 2000tiles")
    amount, unit = match.groups()
    if unit in _SECONDS:
        return Budget(seconds=float(amount) * _SECONDS[unit], width=until_stable)
    if "." in amount:
        raise UsageError(f"--budget {budget!r} is no whole number of tiles; give e.g. 2000tiles")
    return Budget(tiles=int(amount), width=until_stable)
