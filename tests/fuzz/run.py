"""Starts a worker for each kind, watches it, and collects what it finds."""

from __future__ import annotations

import collections
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fuzz.worker import MAX_CPU_S

ROOT = Path(__file__).resolve().parents[2]
_MEMORY = Path("/dev/shm")
STALLED_S = 120.0
"""Wall clock without an answer, after which it is asked what the case does."""


@dataclass
class Result:
    """Of one kind: how many cases had which outcome, and what each finding was."""

    kind: str
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values()) + len(self.findings)

    def describe(self) -> str:
        rate = self.cases / self.seconds if self.seconds else 0.0
        counts = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return f"{self.kind}: {self.cases} cases, {rate:.0f}/s ({counts})"


def fuzz(kind: str, seconds: float, seed: int, keep: Path | None = None, first: int = 0) -> Result:
    """Run cases of ``kind`` from number ``first`` on for ``seconds``; the files of findings go to
    ``keep``."""
    result, number, begun = Result(kind), first, time.monotonic()
    until = time.time() + seconds
    memory = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="pathgene-fuzz-", dir=memory) as folder:
        while time.time() < until or number == first:
            ended = _watch(_Worker(kind, seed, number, until, Path(folder)), result, seed, keep)
            if ended is None:
                break
            number = ended + 1
    result.seconds = time.monotonic() - begun
    return result


class _Worker:
    def __init__(self, kind: str, seed: int, first: int, until: float, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(seed), str(first)]
        command += [str(until), str(folder)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self._spent = 0.0
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def starves(self) -> bool:
        """Whether it waits for a processor, or was stopped, rather than for something that does not
        come: it had less time than a case may take."""
        found = psutil.Process(self.process.pid)
        spent = sum(found.cpu_times()[:2])
        waiting = found.status() in (psutil.STATUS_RUNNING, psutil.STATUS_STOPPED)
        starving = waiting and spent - self._spent < MAX_CPU_S
        self._spent = spent
        return starving

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-3000:].decode(errors="replace")


def _watch(worker: _Worker, result: Result, seed: int, keep: Path | None) -> int | None:
    """Until the worker ends; the number of the case that ended it, None if its time was over."""
    case: dict[str, Any] = {}
    try:
        while True:
            try:
                line = worker.lines.get(timeout=STALLED_S)
            except queue.Empty:
                if worker.starves():
                    continue
                worker.process.kill()  # its file stays this case's
                _found(result, case, f"no end after {STALLED_S:g} s", seed, keep)
                return int(case.get("begun", 0))
            if line is None:
                code = worker.process.wait()
                if code == 0:
                    return None
                if not case:
                    raise RuntimeError(f"the worker of {result.kind} failed: {worker.said()}")
                what = f"the process ended with {code}: {worker.said()}"
                _found(result, case, what, seed, keep)
                return int(case["begun"])
            told = json.loads(line)
            if "begun" in told:
                case = told
                continue
            if "finding" in told:
                _found(result, case | {"file": told["file"]}, told["finding"], seed, keep)
            else:
                result.outcomes[told["outcome"]] += 1
            case = {}
    finally:
        worker.process.kill()
        worker.process.wait()
        worker.errors.close()


def _found(result: Result, case: dict[str, Any], what: str, seed: int, keep: Path | None) -> None:
    number = case.get("begun", 0)
    again = f"python -m tests.fuzz --kinds {result.kind} --seed {seed} --first {number} --seconds 1"
    result.findings.append(f"{result.kind} {number}: {what} [{again}]")
    path = Path(case.get("file", ""))
    if keep is not None and path.is_file():
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, keep / f"{result.kind}-{seed}-{number}{path.suffix}")
