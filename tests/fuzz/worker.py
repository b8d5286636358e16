"""Runs the cases of one kind one after the other; its parent watches, and goes on after a crash.

Prints a line of JSON when a case begins and when it has ended.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.kind import Kind

MAX_CPU_S = 30.0
MAX_RSS_BYTES = 2 << 30
_ADDRESS_BYTES = 12 << 30


def main() -> None:
    name, seed, first, until, folder = sys.argv[1:6]
    os.environ["PATHGENE_RT_CACHE"] = str(Path(folder) / "cache")
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what native code prints is no answer
    faulthandler.enable()
    _bound_memory()
    from tests.fuzz.kinds import KINDS

    kind = KINDS[name](Path(folder))
    deadline, number = float(until), int(first)
    while True:
        rng = random.Random(f"{seed}/{name}/{number}")
        path = kind.make(rng)
        told.write(json.dumps({"begun": number, "file": str(path)}) + "\n")
        told.write(json.dumps(run_case(kind, path, rng, number)) + "\n")
        number += 1
        if time.time() >= deadline:
            return


def run_case(kind: Kind, path: Path, rng: random.Random, number: int) -> dict[str, Any]:
    """What became of the case in ``path``. The file of a finding is put aside: the next case takes
    its place before anyone copies it."""
    from tests.fuzz.kind import FindingError

    _forget_peak()
    begun = time.process_time()
    answer: dict[str, Any] = {"ended": number}
    try:
        answer["outcome"] = kind.check(path, rng)
    except FindingError as finding:
        answer["finding"] = str(finding)
    except MemoryError:
        answer["finding"] = "out of memory"
    answer["cpu_s"] = time.process_time() - begun
    answer["rss"] = _peak()
    if answer["cpu_s"] > MAX_CPU_S:
        answer["finding"] = f"took {answer['cpu_s']:.0f} s of CPU"
    if answer["rss"] > MAX_RSS_BYTES:
        answer["finding"] = f"took {answer['rss'] >> 20} MiB"
    if "finding" in answer:
        answer["file"] = str(path.rename(path.with_name(f"found-{number}{path.suffix}")))
    return answer


def _bound_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _forget_peak() -> None:
    """So that the peak is the next case's alone, where the kernel can do that."""
    clear = Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")
    except OSError:
        return


def _peak() -> int:
    """The peak of resident memory in bytes since it was forgotten; 0 where nobody says it."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(text.split("VmHWM:")[1].split()[0]) << 10


if __name__ == "__main__":
    main()
