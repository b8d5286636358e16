"""An archive's one worker in this process, in place of Ray's actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathgene_rt.archive.pool import Event, Finished, Opened
from pathgene_rt.archive.tasks import SlideTask, Task, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker


class LocalPool:
    """Takes what :class:`~pathgene_rt.archive.ray_pool.RayPool` does."""

    def __init__(self, spec: WorkerSpec, **_: Any) -> None:
        engine = {**spec.engine, "threads": 1}
        self._worker = Worker(package_sha256(), {**vars(spec), "engine": engine})
        self._events: list[Event] = []

    def wanted(self) -> int:
        return 1

    def start(self) -> int:
        self._events.append(Opened(1, self._worker.open()))
        return 1

    def submit(self, worker: int, task: Task, name: str) -> None:
        self._events.append(Finished(worker, self._worker.do(task, name)))

    def prepare(self, worker: int, task: SlideTask) -> None:
        self._worker.prepare(task)

    def stop(self, worker: int) -> None:
        self._worker.close()

    def wait(self, timeout_s: float) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._worker.close()
