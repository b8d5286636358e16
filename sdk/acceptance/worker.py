"""The process that makes one target's checks: ``python -m pathgene_rt.acceptance.worker ...``.

It says on a file, line by line, what it begins and what it found, so that whoever started it knows
where it was if it crashes or hangs.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import pathgene_rt.engines
from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.native_calls import NativeCalls
from pathgene_rt.acceptance.result import CheckResult
from pathgene_rt.acceptance.workbench import (
    Check,
    CheckFailedError,
    Finding,
    Job,
    NotRunError,
    Workbench,
    reference_arrays,
)
from pathgene_rt.engines.registry import load_backend
from pathgene_rt.errors import PathGeneError

PROBE, REFERENCE = "probe", "reference"
"""Jobs that are no checks: say in which precisions the engine runs here; keep what it gives, for
the others to be compared with."""


def main(job_file: str, events_file: str) -> None:
    """Make the checks of the job in ``job_file``; append to ``events_file``."""
    job = Job.from_json(Path(job_file).read_text(encoding="utf-8"))
    root = Path(next(iter(pathgene_rt.engines.__path__)))
    with Path(events_file).open("a", encoding="utf-8") as events:

        def say(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")
            events.flush()

        calls = NativeCalls(root)
        if job.recorded:
            calls.start()
        for name in job.checks:
            say({"began": name})
            result = _make({**CHECKS, **_JOBS}[name], job)
            say({"result": asdict(result), "calls": calls.found()})


def _make(check: Check, job: Job) -> CheckResult:
    """The result of one check, on a workbench of its own."""
    began = time.perf_counter()
    figures: dict[str, float] = {}
    try:
        bench = Workbench(job)
        try:
            found = check.run(bench)
        finally:
            bench.close()
        status, detail, figures = "passed", found.words, dict(found.figures)
    except NotRunError as error:
        status, detail = "not run", str(error)
    except CheckFailedError as error:
        status, detail = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - what a check raises is its result
        status, detail = "failed", _in_words(error)
    return CheckResult(
        job.target.engine,
        job.target.precision,
        check.name,
        status,  # type: ignore[arg-type]
        detail,
        time.perf_counter() - began,
        # JSON has no infinity.
        {name: float(value) for name, value in figures.items() if np.isfinite(value)},
    )


def _probe(bench: Workbench) -> Finding:
    found = load_backend(bench.job.target.engine).probe()
    if not found.available:
        raise NotRunError(found.reason)
    return Finding(" ".join(found.precisions))


def _keep_reference(bench: Workbench) -> Finding:
    assert bench.job.reference is not None
    arrays: dict[str, Any] = reference_arrays(bench)
    np.savez(bench.job.reference, **arrays)
    return Finding("kept")


_JOBS = {
    PROBE: Check(PROBE, "", _probe),
    REFERENCE: Check(REFERENCE, "", _keep_reference),
}


def _in_words(error: Exception) -> str:
    """An error of ours as it is; any other with its type and the place, for it is a mistake."""
    words = " ".join(str(error).split())[:500]
    if isinstance(error, PathGeneError):
        return words
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}"
    line = "" if trace is None else f":{trace.tb_lineno}"
    return f"{type(error).__name__}: {words}{where}{line}"


if __name__ == "__main__":
    main(*sys.argv[1:3])
