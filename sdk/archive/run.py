"""A run over an archive: tasks to workers, deaths counted, what became of each told."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pathgene_rt.archive.pool import Died, Event, Finished, Opened, WorkerPool
from pathgene_rt.archive.queue import TaskQueue
from pathgene_rt.archive.results import Results
from pathgene_rt.archive.state import ArchiveState
from pathgene_rt.archive.stores import is_url
from pathgene_rt.archive.tasks import CaseTask, Ended, Hello, SlideTask, Task
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import (
    EngineError,
    EngineUnavailableError,
    PathGeneError,
    SlideError,
)

MAX_DEATHS = 2
"""Of workers that one slide may cost until it is set aside."""

MAX_TRIES = 5
"""Of one slide, also if its workers died before they were seen to begin it: on a network share what
they wrote last may not be seen yet."""

CLOCK_SKEW_S = 60.0
"""Of a node, from which on it is told. Nothing here depends on it, but its reports are dated."""

_WAIT_S = 0.5
_GROW_S = 5.0
"""Between looks whether the machines have place for more workers."""

OnEnded = Callable[[Task, Ended], None]
Outcome = Literal["done", "skipped", "failed"]


@dataclass
class RunResult:
    """What became of all: counts by outcome, and each failure by the slide's or case's name."""

    slides: Counter[Outcome] = field(default_factory=Counter)
    cases: Counter[Outcome] = field(default_factory=Counter)
    failures: dict[str, PathGeneError] = field(default_factory=dict)


class ArchiveRun:
    """Hands the tasks of ``queue`` to the workers of ``pool`` and writes to ``state``.

    At most ``max_rate`` bytes of slides a second are begun, on the average; 0: as many as go. A
    task whose worker dies is given to another; the second time it is set aside as failed. So is one
    whose engine fails (a GPU that is gone), and the worker is replaced. ``ended`` hears of each
    task, ``note`` of what is worth telling meanwhile.
    """

    def __init__(
        self,
        results: Results,
        queue: TaskQueue,
        pool: WorkerPool,
        state: ArchiveState,
        *,
        max_rate: int = 0,
        token: CancellationToken | None = None,
        ended: OnEnded | None = None,
        note: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._results = results
        self._queue = queue
        self._pool = pool
        self._state = state
        self._max_rate = max_rate
        self._token = token or CancellationToken()
        self._ended: OnEnded = ended or (lambda *_: None)
        self._note: Callable[[str], None] = note or (lambda _: None)
        self._clock = clock
        self._workers: dict[int, Hello | None] = {}
        """Those that live; None until they have opened the bundle."""
        self._idle: set[int] = set()
        self._tasks: dict[int, Task] = {}
        self._next: dict[int, SlideTask] = {}
        """What is reserved for a worker, which prepares it."""
        self._attempts: dict[int, str] = {}
        """The name of each worker's attempt at its task."""
        self._name, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._deaths: Counter[Task] = Counter()
        self._tries: Counter[Task] = Counter()
        self._deaths_in_a_row = 0
        self._refused: list[str] = []
        self._began_bytes = 0
        self._result = RunResult()

    def run(self) -> RunResult:
        """Until every task has ended.

        Raises EngineUnavailableError if no worker can take part or they die without getting
        anything done; CancelledError; what every other slide would meet, too: UsageError,
        BundleError, OutputError of a disk that is full or gone.
        """
        began = self._clock()
        looked = -_GROW_S
        while self._tasks or self._next or len(self._queue):
            self._token.raise_if_cancelled()
            now = self._clock()
            if now - looked >= _GROW_S:
                looked = now
                self._grow()
            if not self._results.paused():
                self._hand_out(now - began)
            for event in self._pool.wait(_WAIT_S):
                self._handle(event)
            self._state.commit()
        return self._result

    def _grow(self) -> None:
        """Start workers as long as there is place and work for them."""
        wanted = self._pool.wanted() - len(self._refused)
        for _ in range(min(wanted, len(self._tasks) + len(self._queue)) - len(self._workers)):
            self._workers[self._pool.start()] = None
        if not self._workers and self._refused:
            raise EngineUnavailableError(f"no worker can take part; {self._refused[0]}")

    def _hand_out(self, elapsed_s: float) -> None:
        for worker in sorted(self._idle):
            too_fast = self._max_rate and self._began_bytes > self._max_rate * elapsed_s
            if too_fast or not (worker in self._next or len(self._queue)):
                continue
            task = self._next.pop(worker, None) or self._queue.next()
            if isinstance(task, SlideTask):
                self._began_bytes += task.size
                self._state.began(task.slide_id, worker)
            self._idle.discard(worker)
            self._tasks[worker] = task
            self._attempts[worker] = f"{self._name}-{next(self._numbers)}"
            self._pool.submit(worker, task, self._attempts[worker])
            self._reserve(worker)

    def _reserve(self, worker: int) -> None:
        """Let a worker fetch its next slide, if that lies in a store, while it does this one; not
        when there are no more than others may ask for."""
        if len(self._queue) <= len(self._workers):
            return
        task = self._queue.peek()
        if isinstance(task, SlideTask) and is_url(task.source):
            self._queue.next()
            self._next[worker] = task
            self._pool.prepare(worker, task)

    def _handle(self, event: Event) -> None:
        if event.worker not in self._workers:
            return
        if isinstance(event, Opened):
            self._opened(event.worker, event.hello)
        elif isinstance(event, Finished):
            self._finished(event.worker, event.ended)
        else:
            self._died(event)

    def _opened(self, worker: int, hello: Hello) -> None:
        if hello.refusal:
            self._refused.append(f"{hello.node}: {hello.refusal}")
            self._tell(f"worker {worker} on {hello.node} cannot take part: {hello.refusal}")
            self._drop(worker, hello.refusal)
            self._grow()
            return
        if not any(self._workers.values()):
            for note in hello.notes:
                self._note(note)
        skew_s = hello.clock - time.time()
        if abs(skew_s) > CLOCK_SKEW_S:
            self._tell(f"{hello.node}: its clock is {skew_s:+.0f} s off, and dates its reports")
        self._workers[worker] = hello
        self._idle.add(worker)
        self._state.worker_opened(worker, hello)
        self._state.event(f"worker {worker} opened on {hello.node}: {hello.engine}")

    def _finished(self, worker: int, ended: Ended) -> None:
        task = self._tasks.pop(worker)
        error = ended.error
        if error is not None and ended.stops:
            self._state.event(f"stopped: {error}")
            raise error
        if isinstance(error, EngineError) and not isinstance(error, EngineUnavailableError):
            # It may be the machine's fault, which would cost every slide that comes to it.
            self._tell(f"worker {worker} is replaced: {error}")
            self._drop(worker, str(error))
            self._again_or_aside(task, ended)
            self._replace()
            return
        self._deaths_in_a_row = 0
        self._idle.add(worker)
        self._count(task, ended)

    def _died(self, event: Died) -> None:
        worker = event.worker
        hello, task = self._workers[worker], self._tasks.pop(worker, None)
        where = f"worker {worker}" + (f" on {hello.node}" if hello else "")
        had = f", which had {task.name}" if task is not None else ""
        self._tell(f"{where}{had}, died: {event.reason}")
        self._drop(worker, event.reason, stop=False)
        if task is not None and not self._was_begun(worker, task):
            self._again(task)
        elif task is not None:
            reason = (
                f"{task.name}: set aside, for it ended its worker {MAX_DEATHS} times "
                f"({event.reason}); check the file, and the memory that a worker has"
            )
            self._again_or_aside(task, Ended("failed", kind=SlideError.__name__, message=reason))
        self._replace(event.reason)

    def _again_or_aside(self, task: Task, ended: Ended) -> None:
        """``ended`` is what it fails of if this was the last try."""
        self._deaths[task] += 1
        if self._deaths[task] < MAX_DEATHS:
            self._again(task)
            return
        self._deaths_in_a_row = 0
        self._state.event(f"{task.name} is set aside")
        self._count(task, ended)

    def _again(self, task: Task) -> None:
        if isinstance(task, SlideTask):
            self._state.waits_again(task.slide_id)
        self._queue.again(task)

    def _was_begun(self, worker: int, task: Task) -> bool:
        """Whether the task is to blame for the worker's death: it may have died just before. What
        it left of the attempt is removed, so that a worker that was only thought dead finds nothing
        to publish."""
        self._tries[task] += 1
        begun = self._results.drop_attempt(self._attempts[worker]) or isinstance(task, CaseTask)
        return begun or self._tries[task] >= MAX_TRIES

    def _replace(self, reason: str = "") -> None:
        """Workers for those that are gone, unless all die without getting anything done."""
        self._deaths_in_a_row += 1
        most = 3 * MAX_DEATHS + MAX_DEATHS * self._pool.wanted()
        if self._deaths_in_a_row > most:
            raise EngineUnavailableError(
                f"{self._deaths_in_a_row} workers died one after the other without a slide done "
                f"({reason or 'their engine failed'}); try predict with one slide on that machine"
            )
        self._grow()

    def _count(self, task: Task, ended: Ended) -> None:
        if isinstance(task, CaseTask):
            self._result.cases[ended.outcome] += 1
            self._state.case_ended(task.case, ended)
        elif isinstance(task, SlideTask):
            self._result.slides[ended.outcome] += 1
            self._state.ended(task.slide_id, ended)
        if ended.error is not None:
            self._result.failures[task.name] = ended.error
        self._queue.ended(task, failed=ended.outcome == "failed")
        self._ended(task, ended)

    def _drop(self, worker: int, reason: str, *, stop: bool = True) -> None:
        if stop:
            self._pool.stop(worker)
        if worker in self._next:
            self._queue.again(self._next.pop(worker))
        del self._workers[worker]
        self._idle.discard(worker)
        self._state.worker_ended(worker, reason)

    def _tell(self, text: str) -> None:
        self._note(text)
        self._state.event(text)
