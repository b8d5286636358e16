"""Processes that read slides, started anew when one crashes or stands still."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from pathgene_rt.own_process import PipedProcess, module_command
from pathgene_rt.process_messages import Message, receive, send

MODULE: Final = "pathgene_rt.view.slide_process"
MAX_WAITING = 128
"""Jobs a process: more are refused, so that memory and waiting are bounded."""

TIMEOUT_S = 60.0
MAX_CRASHES = 3
"""Times that a file may end its process before it is not tried again until it changes."""


class BusyError(Exception):
    """Too many jobs wait; ask again."""


class CrashedError(Exception):
    """The process ended or stood still at this job; the next job gets a new one."""


Job = tuple[Mapping[str, Any], Future[Message]]


class SlideWorkers:
    """``count`` processes. A file stays with one of them, which keeps it open. Thread-safe."""

    def __init__(self, count: int = 2, timeout_s: float = TIMEOUT_S) -> None:
        self._workers = [_Worker(timeout_s) for _ in range(count)]
        self._homes: dict[str, int] = {}
        self._crashes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def submit(self, job: Mapping[str, Any], identity: str = "") -> Future[Message]:
        """The answer to ``job``, which has ``job`` and ``path``; ``identity`` is the file's.

        Raises BusyError. The future raises CrashedError.
        """
        path, whole = str(job["path"]), (str(job["path"]), identity)
        with self._lock:
            if self._crashes[whole] >= MAX_CRASHES:
                refused: Future[Message] = Future()
                refused.set_exception(CrashedError(f"ended its reader {MAX_CRASHES} times"))
                return refused
            worker = self._workers[self._home(path)]
        future = worker.submit(job)
        future.add_done_callback(lambda done: self._count(whole, done))
        return future

    def _home(self, path: str) -> int:
        if len(self._homes) > 10_000:
            self._homes.clear()
        if path not in self._homes:
            used = Counter(self._homes.values())
            self._homes[path] = min(range(len(self._workers)), key=lambda k: used[k])
        return self._homes[path]

    def _count(self, whole: tuple[str, str], done: Future[Message]) -> None:
        if not done.cancelled() and isinstance(done.exception(), CrashedError):
            with self._lock:
                self._crashes[whole] += 1

    def close(self) -> None:
        """End the processes; jobs that wait are cancelled."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process and the thread that speaks with it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._process: PipedProcess | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="slide-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Mapping[str, Any]) -> Future[Message]:
        if self._jobs.qsize() >= MAX_WAITING:
            raise BusyError
        future: Future[Message] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        self._end()
        self._thread.join(5)

    def _run(self) -> None:
        self._start()
        while (item := self._jobs.get()) is not None:
            job, future = item
            if self._closed:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._ask(job))
                except (EOFError, OSError, ValueError) as error:
                    self._end()
                    future.set_exception(CrashedError(f"its reader ended: {error}"))
        self._end()

    def _ask(self, job: Mapping[str, Any]) -> Message:
        process = self._process
        if process is None or not process.runs:
            process = self._start()
        watch = threading.Timer(self._timeout_s, process.kill)
        watch.daemon = True
        watch.start()
        try:
            send(process.requests, job)
            return receive(process.answers)
        finally:
            watch.cancel()

    def _start(self) -> PipedProcess:
        self._process = PipedProcess(module_command(MODULE), stderr=None)
        return self._process

    def _end(self) -> None:
        process = self._process
        if process is not None:
            self._process = None
            process.end()
