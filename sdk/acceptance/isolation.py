"""Checks in processes of their own: a crash or a hang is one check's result, and the rest go on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pathgene_rt.acceptance.result import CheckResult
from pathgene_rt.acceptance.workbench import Job
from pathgene_rt.own_process import how_ended, module_command

WORKER = "pathgene_rt.acceptance.worker"

START_S = 120.0
"""What a process may take to begin its first check: importing on a cold disk."""

_POLL_S = 0.05
_LAST_LINES = 3


@dataclass
class Outcome:
    """What the processes of one job said: a result for every check, and the native calls seen."""

    results: list[CheckResult] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)


def run_isolated(
    job: Job,
    limits_s: Mapping[str, float],
    progress: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Make the checks of ``job``, each within ``limits_s``, in one process while that lives.

    A check in which the process dies or stands still has failed; those after it are made in a new
    process. ``progress`` is called with each check that begins.
    """
    outcome = Outcome()
    remaining = list(job.checks)
    while remaining:
        ended = _run_process(
            replace(job, checks=tuple(remaining)), limits_s, progress, environment, outcome
        )
        done = {result.check for result in outcome.results}
        remaining = [name for name in remaining if name not in done]
        if remaining:
            # The one that had begun, or the first if none had, would end the next process too.
            name, why = ended.during or remaining[0], ended.why
            target = job.target
            outcome.results.append(
                CheckResult(target.engine, target.precision, name, "failed", why, ended.seconds)
            )
            remaining.remove(name)
    return outcome


@dataclass
class _Ended:
    """How a process ended: ``during`` which check, ``why``, and how long that had taken."""

    during: str = ""
    why: str = ""
    seconds: float = 0.0


def _run_process(
    job: Job,
    limits_s: Mapping[str, float],
    progress: Callable[[str], None],
    environment: Mapping[str, str] | None,
    outcome: Outcome,
) -> _Ended:
    stem = f"job-{job.target.engine}-{job.target.precision}-{time.monotonic_ns()}"
    files = [job.folder / f"{stem}.{suffix}" for suffix in ("json", "events", "log")]
    job_file, events_file, log_file = files
    job_file.write_text(job.to_json(), encoding="utf-8")
    events_file.touch()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            module_command(WORKER, str(job_file), str(events_file)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            return _follow(process, events_file, log_file, limits_s, progress, outcome)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _follow(
    process: subprocess.Popen[bytes],
    events_file: Path,
    log_file: Path,
    limits_s: Mapping[str, float],
    progress: Callable[[str], None],
    outcome: Outcome,
) -> _Ended:
    during, since, limit_s = "", time.monotonic(), START_S
    with events_file.open(encoding="utf-8") as events:
        text = ""
        while True:
            alive = process.poll() is None
            text += events.read()
            *lines, text = text.split("\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                since = time.monotonic()
                if "began" in event:
                    during = event["began"]
                    limit_s = limits_s[during]
                    progress(during)
                else:
                    outcome.results.append(CheckResult(**event["result"]))
                    outcome.calls.update(event["calls"])
                    during, limit_s = "", START_S
            seconds = time.monotonic() - since
            if not alive:
                break
            if seconds > limit_s:
                why = f"it stood still for {seconds:.0f} s and was ended"
                return _Ended(during, why, seconds)
            time.sleep(_POLL_S)
    lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = "; ".join(lines[-_LAST_LINES:])[:500] or "it said nothing"
    return _Ended(during, f"the process {how_ended(process.returncode)}: {said}", seconds)
