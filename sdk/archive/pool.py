"""What a run needs of whoever runs its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pathgene_rt.archive.tasks import Ended, Hello, SlideTask, Task


@dataclass(frozen=True)
class Opened:
    """The worker has said what it is."""

    worker: int
    hello: Hello


@dataclass(frozen=True)
class Finished:
    """The worker has ended its task."""

    worker: int
    ended: Ended


@dataclass(frozen=True)
class Died:
    """The worker is gone, with the task that it had, if any."""

    worker: int
    reason: str


Event = Opened | Finished | Died


class WorkerPool(Protocol):
    """Workers that are started, given one task at a time, and may die at any moment."""

    def wanted(self) -> int:
        """How many workers the machines have place for now."""
        ...

    def start(self) -> int:
        """Begin to start a worker and return its number; an event follows."""
        ...

    def submit(self, worker: int, task: Task, name: str) -> None:
        """Give an opened worker that has no task one, as the attempt ``name``; an event follows."""
        ...

    def prepare(self, worker: int, task: SlideTask) -> None:
        """Tell a worker which task will be its next, while it has one."""
        ...

    def stop(self, worker: int) -> None:
        """End a worker; no event follows."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What has happened, at the latest after ``timeout_s``."""
        ...

    def close(self) -> None:
        """End all workers. Idempotent."""
        ...
