"""An archive's workers within this process, of which some die on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.pool import Died, Event, Finished, Opened
from pathgene_rt.archive.tasks import Ended, Hello, SlideTask, Task

Do = Callable[[int, Task], Ended | str]
"""What the worker of that number makes of a task, or the reason why it dies."""


class ScriptedPool:
    """Tasks are done when they are waited for, in the order of their workers. ``hello`` is what
    each worker says of itself, or why it dies before that. Those that die at a task leave an
    attempt at it in the archive ``out``, if there is one."""

    def __init__(
        self,
        do: Do,
        count: int = 2,
        hello: Callable[[int], Hello | str] | None = None,
        out: Path | None = None,
    ) -> None:
        self._out = out
        self._do = do
        self._count = count
        self._hello = hello or (
            lambda number: Hello(f"node{number % 2}", number, time.time(), "numpy")
        )
        self._pending: dict[int, tuple[Task, str] | None] = {}
        self.started = 0
        self.stopped: list[int] = []
        self.given: list[str] = []
        self.given_to: dict[str, int] = {}
        self.prepared: list[tuple[int, str]] = []
        self.closed = False

    def wanted(self) -> int:
        return self._count

    def start(self) -> int:
        self.started += 1
        self._pending[self.started] = None
        return self.started

    def submit(self, worker: int, task: Task, name: str) -> None:
        assert worker not in self._pending, "one task at a time"
        self.given.append(task.name)
        self.given_to[task.name] = worker
        self._pending[worker] = task, name

    def prepare(self, worker: int, task: SlideTask) -> None:
        assert worker in self._pending
        self.prepared.append((worker, task.name))

    def stop(self, worker: int) -> None:
        self._pending.pop(worker, None)
        self.stopped.append(worker)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        pending, self._pending = self._pending, {}
        return [self._event(worker, given) for worker, given in pending.items()]

    def _event(self, worker: int, given: tuple[Task, str] | None) -> Event:
        if given is None:
            hello = self._hello(worker)
            return Died(worker, hello) if isinstance(hello, str) else Opened(worker, hello)
        task, name = given
        ended = self._do(worker, task)
        if isinstance(ended, str) and self._out is not None:
            (ArchiveLayout(self._out).attempts / name).mkdir(parents=True)
        return Died(worker, ended) if isinstance(ended, str) else Finished(worker, ended)

    def close(self) -> None:
        self.closed = True
