"""Threads that push, finish, cancel and close scan sessions at random moments, for a long time.

    python -m benchmarks.scan_soak [--seconds 600] [--threads 8] [--bundle BUNDLE]

Fails if a call hangs, if anything but a PathGeneError comes out of one, or if a session ends in
neither a report nor an error. Resident memory is taken at a tenth of the time and at the end.
"""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import psutil
import typer

from pathgene_rt import EngineOptions, Predictor
from tests.support import tiny_models
from tests.support.pushed_slides import picture
from tests.support.scan_storm import StormyScans


def main(
    seconds: float = 60.0,
    threads: int = 8,
    seed: int = 0,
    bundle: Annotated[Path | None, typer.Option(help="Else the tests' tiny one.")] = None,
) -> None:
    """Print what became of the sessions as JSON and as a table."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle or tiny_models.tiny_bundle(Path(folder) / "tiny.pgrt")
        with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
            scans = StormyScans(predictor, picture(), threads, seed)
            scans.rage(seconds / 10)
            settled = resident_mb()
            found = scans.rage(seconds)
            grown = resident_mb() - settled
        left = threading.active_count() - 1
    print(
        json.dumps(
            {
                "seconds": seconds,
                "threads": threads,
                "ends": found.ends,
                "calls": found.calls,
                "slowest_push_s": round(found.slowest_push_s, 3),
                "rss_mb": round(settled),
                "rss_grown_mb": round(grown, 1),
                "threads_left": left,
            }
        )
    )
    print("\n| sessions ended in | count |\n|---|---|")
    for name, count in found.ends.most_common():
        print(f"| {name} | {count} |")
    print(f"\nRSS {settled:.0f} MB, {grown:+.1f} MB at the end; {left} threads left")


def resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    typer.run(main)
