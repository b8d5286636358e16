"""Functions of TensorRT for RTX that our own source executes where there is no card: the table in
docs/gpu.md.

    make native-calls        # writes it

Wheels of the library build without a card, so a build is run, with functions of its module wrapped
to note that they were entered. In a process of its own, since they stay wrapped.
"""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.engines.tensorrt.plan import load_plan
from pathgene_rt.engines.tensorrt.profiles import profiles_for
from pathgene_rt.errors import EngineError
from pathgene_rt.options import TensorRtOptions
from tests.support.fake_tensorrt import ENCODER, ENCODER_SPEC
from tests.support.native_calls import native_functions, write
from tests.support.paths import ROOT

BEGIN, END = (
    "<!-- executed calls: made by tests/support/executed_calls.py -->",
    "<!-- end of executed calls -->",
)
CALLED_BACK = {"IProgressMonitor": ("phase_finish", "phase_start", "step_complete")}
"""Methods of ours that the library calls, by its class."""

FREE = "functions"
"""The row of what belongs to no class."""


def documented() -> str:
    """The table, with its marks. Runs a build; raises CalledProcessError where that fails."""
    command = [sys.executable, "-c", "from tests.support.executed_calls import tell; tell()"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return table(set(json.loads(ran.stdout)))


def table(executed: set[str]) -> str:
    """Of each class that our source calls: which of its functions are among ``executed``."""
    called = native_functions()
    names = {*called["tensorrt"], *called["tensorrt_rtx"]}
    names |= {f"{kind}.{name}" for kind, each in CALLED_BACK.items() for name in each}
    rows: dict[str, tuple[list[str], list[str]]] = {}
    for name in sorted(names):
        kind, _, method = name.partition(".")
        if not (method or kind[0].isupper()):
            kind, method = FREE, name
        rows.setdefault(kind, ([], []))[name not in executed].append(method or "constructor")
    lines = []
    for kind, parts in rows.items():
        cells = [", ".join(f"`{name}`" for name in part) or "-" for part in parts]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    head = ["| class | executed | not executed |", "|---|---|---|"]
    return "\n".join([BEGIN, "", *head, *lines, "", END])


def executed() -> set[str]:
    """What builds, a graph that is refused, and loading as far as it goes execute of the library;
    in this process the library's functions stay wrapped."""
    seen: set[str] = set()
    _wrap(TENSORRT_RTX.api, seen)
    plan = build_plan(_build(ENCODER))
    with suppress(EngineError):
        build_plan(_build(ENCODER[: len(ENCODER) // 2]))
    with suppress(EngineError):  # the driver, which is missing
        load_plan(TENSORRT_RTX, plan, ENCODER_SPEC)
    return seen


def _build(model: bytes) -> Build:
    return Build(
        model=model,
        spec=ENCODER_SPEC,
        profiles=profiles_for(ENCODER_SPEC, 8),
        options=TensorRtOptions(),
        workspace=1 << 30,
        threads=1,
        current=nullcontext,
        cards=((8, 6),),
        library=TENSORRT_RTX,
    )


def _wrap(module: Any, seen: set[str]) -> None:
    for kind in filter(inspect.isclass, list(vars(module).values())):
        for name, function in list(vars(kind).items()):
            if name == "__init__":
                kind.__init__ = _made(kind, function, seen)
            elif callable(function) and not name.startswith("_"):
                setattr(kind, name, _noting(function, f"{kind.__name__}.{name}", seen))
    for name, function in list(vars(module).items()):
        if inspect.isbuiltin(function):
            setattr(module, name, _noting(function, name, seen))


def _made(kind: type, init: Callable[..., None], seen: set[str]) -> Callable[..., None]:
    """``init``, noting the class, and then what the library calls of one that is derived of it."""

    def made(self: Any, *given: Any, **named: Any) -> None:
        seen.add(kind.__name__)
        for name in CALLED_BACK.get(kind.__name__, ()):
            own = vars(type(self)).get(name)
            if own is not None:
                setattr(type(self), name, _noting(own, f"{kind.__name__}.{name}", seen))
        init(self, *given, **named)

    return made


def _noting(function: Callable[..., Any], name: str, seen: set[str]) -> Callable[..., Any]:
    @functools.wraps(function, assigned=("__doc__",), updated=())
    def noting(*given: Any, **named: Any) -> Any:
        seen.add(name)
        return function(*given, **named)

    return noting


def tell() -> None:
    """What the process of :func:`documented` does."""
    json.dump(sorted(executed()), sys.stdout)


if __name__ == "__main__":
    write(documented())
