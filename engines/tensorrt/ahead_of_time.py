"""Engines built where there is no GPU, for cards that are named, by TensorRT for RTX.

A build is native code that takes no advice on memory or time, and a graph can make it end the
process; so each has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.tensorrt import api
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from pathgene_rt.engines.tensorrt.profiles import profiles_for
from pathgene_rt.errors import EngineError, PathGeneError
from pathgene_rt.options import TensorRtOptions

Card = tuple[int, int]
"""A compute capability."""

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

_SPEC = TypeAdapter(ModelSpec)


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


def build_ahead(
    model: bytes,
    spec: ModelSpec,
    cards: tuple[Card, ...],
    *,
    limits: Limits | None = None,
    profiles: int | None = None,
) -> Built:
    """The engine of the ONNX file ``model`` for ``cards``, all of them or none.

    It has the first ``profiles`` of the product's own, all by default; the library's own limit on
    scratch memory, since the card that will run it is not known. What a graph does in the process
    is a :class:`Built` with an ``error``. Raises EngineError if TensorRT for RTX is not installed.
    """
    if not TENSORRT_RTX.installed():
        raise EngineError(
            "TensorRT for RTX is not installed; pip install 'pathgene-rt[tensorrt-rtx]'"
        )
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="pathgene-rt-build-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        (folder / "spec.json").write_bytes(_SPEC.dump_json(spec))
        job = {"cards": cards, "profiles": profiles, "memory": limits.memory}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", __name__, name]
        try:
            ended = subprocess.run(
                command, capture_output=True, timeout=limits.seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Built(None, f"it was not built within {limits.seconds:.0f} s", 0.0, 0)
        try:
            result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
        except FileNotFoundError:
            return Built(None, _ended(ended.returncode, ended.stderr), 0.0, 0)
        plan = folder / "engine"
        return Built(plan.read_bytes() if not result["error"] else None, **result)


def _ended(code: int, stderr: bytes) -> str:
    """Why a process left no result."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = f" ({lines[-1]})" if lines else ""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the compiler's process ended with {how}{said}"


def main(folder: Path) -> None:
    """What the process does, with the files that :func:`build_ahead` left in ``folder``."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    _limit_memory(job["memory"])
    api.use(TENSORRT_RTX)
    spec = _SPEC.validate_json((folder / "spec.json").read_bytes())
    error, began = "", time.process_time()
    try:
        plan = build_plan(
            Build(
                model=(folder / "model.onnx").read_bytes(),
                spec=spec,
                profiles=profiles_for(spec, MAX_BATCH)[: job["profiles"]],
                options=TensorRtOptions(),
                workspace=None,
                threads=usable_cpus(),
                current=nullcontext,
                cards=tuple((major, minor) for major, minor in job["cards"]),
                every_profile=True,
            )
        )
        (folder / "engine").write_bytes(plan)
    except (PathGeneError, MemoryError) as failed:
        error = str(failed) or "it takes more memory than the build may have"
    result = asdict(Built(None, error, time.process_time() - began, _peak()))
    del result["plan"]
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


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
    main(Path(sys.argv[1]))
