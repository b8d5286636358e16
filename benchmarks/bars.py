"""One line of a table of bars."""

from __future__ import annotations

from dataclasses import dataclass

from pathgene_rt.evaluation.exact import two_sided


@dataclass(frozen=True)
class Bar:
    """What was measured against what."""

    what: str
    measured: str
    bar: str
    held: bool


def with_interval(right: int, count: int) -> str:
    """A share with its exact 95 % interval."""
    low, high = two_sided(right, count)
    return f"{right / count:.3f} ({low:.3f} to {high:.3f})"
