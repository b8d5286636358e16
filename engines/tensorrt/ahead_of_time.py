"""Engines built where there is no GPU, for cards that are named, by TensorRT for RTX.

A build is native code that takes no advice on memory or time, and a graph can make it end the
process; so each has a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import NotBuiltError, ProgressCallback
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX, Card
from pathgene_rt.engines.tensorrt.profiles import Profile
from pathgene_rt.errors import EngineError, PathGeneError
from pathgene_rt.options import TensorRtOptions
from pathgene_rt.own_process import ProcessEndedError, answer_once, ask_once
from pathgene_rt.process_messages import Message

CARDS: dict[Card, str] = {
    (7, 5): "T4, RTX 20, GTX 16",
    (8, 0): "A100",
    (8, 6): "RTX 30, A2000",
    (8, 9): "RTX 40, L4",
    (12, 0): "RTX 50, RTX PRO",
}
"""Those that engines are built for, with what is sold under them."""

MAX_BATCH = 128
"""Largest batch of an encoder's engine where no card's memory says otherwise."""


@dataclass(frozen=True)
class Limits:
    """What the process of a build may take: memory in bytes (on Linux), and time."""

    memory: int = 6 << 30
    seconds: float = 900.0


@dataclass(frozen=True)
class Built:
    """``plan`` is None if the build failed, for which ``error`` is then a line. ``cpu_s`` are
    seconds of CPU time of the build, ``peak`` the process's largest memory in bytes (0 where the
    system does not tell)."""

    plan: bytes | None
    error: str
    cpu_s: float
    peak: int


@dataclass(frozen=True)
class _Job:
    """What a process is told beside the graph."""

    spec: ModelSpec
    profiles: tuple[Profile, ...]
    cards: tuple[Card, ...]
    options: TensorRtOptions
    threads: int
    every_profile: bool
    memory: int


_JOB = TypeAdapter(_Job)


def build_ahead(
    model: bytes,
    spec: ModelSpec,
    cards: tuple[Card, ...],
    profiles: tuple[Profile, ...],
    *,
    options: TensorRtOptions | None = None,
    threads: int = 0,
    every_profile: bool = True,
    limits: Limits | None = None,
    elapsed: Callable[[float], None] | None = None,
) -> Built:
    """The engine of the ONNX file ``model`` for ``cards``, all of them or none.

    Scratch memory is limited only where ``options`` do. ``threads`` may build at once, 0 for as
    many as this process may use. ``every_profile`` refuses what builds for smaller bags only.
    ``elapsed`` is told the seconds so far, and whatever it raises ends the build, as Ctrl-C does.
    What a graph does in the process is a :class:`Built` with an ``error``. Raises EngineError if
    TensorRT for RTX is not installed, OSError where no process can be started.
    """
    if not TENSORRT_RTX.installed():
        raise EngineError(
            "TensorRT for RTX is not installed; pip install 'pathgene-rt[tensorrt-rtx]'"
        )
    limits = limits or Limits()
    job = _Job(
        spec=spec,
        profiles=profiles,
        cards=cards,
        options=options or TensorRtOptions(),
        threads=threads or usable_cpus(),
        every_profile=every_profile,
        memory=limits.memory,
    )
    try:
        request = _JOB.dump_python(job, mode="json")
        result, plan = ask_once(__name__, request, model, seconds=limits.seconds, elapsed=elapsed)
    except ProcessEndedError as error:
        return Built(None, f"the compiler's process {error}", 0.0, 0)
    return Built(None if result["error"] else plan, **result)


def build_for_card(build: Build, progress: ProgressCallback | None) -> bytes:
    """The engine of ``build`` for its cards; ``progress`` hears the seconds, about which the
    library's own steps say little. Raises NotBuiltError, EngineError, whatever ``progress``
    raises."""
    words = f"{TENSORRT_RTX.backend}: building {build.spec.name}"

    def elapsed(seconds: float) -> None:
        if progress is not None:
            progress(f"{words}, {seconds:.0f} s", None)

    built = build_ahead(
        build.model,
        build.spec,
        build.cards,
        build.profiles,
        options=build.options,
        threads=build.threads,
        every_profile=build.every_profile,
        elapsed=elapsed,
    )
    if built.plan is None:
        raise NotBuiltError(f"{TENSORRT_RTX.title}: {built.error}")
    return built.plan


def _build(request: dict[str, Any], model: bytes) -> Message:
    """What the process of :func:`build_ahead` does: a :class:`Built`, its plan as the payload."""
    job = _JOB.validate_python(request)
    _limit_memory(job.memory)
    error, plan, began = "", b"", time.process_time()
    workspace = job.options.workspace_mb << 20
    try:
        plan = build_plan(
            Build(
                model=model,
                spec=job.spec,
                profiles=job.profiles,
                options=job.options,
                workspace=workspace or None,
                threads=job.threads,
                current=nullcontext,
                cards=job.cards,
                every_profile=job.every_profile,
                library=TENSORRT_RTX,
            )
        )
    except (PathGeneError, MemoryError) as failed:
        error = str(failed) or "it takes more memory than the build may have"
    return {"error": error, "cpu_s": time.process_time() - began, "peak": _peak()}, plan


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _peak() -> int:
    """Not by getrusage, which in a new process begins with the peak of the one that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    answer_once(_build)
