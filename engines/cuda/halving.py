"""Out of GPU memory in the middle of a slide: go on with half as many tiles a call.

The pipeline does not notice: a submission is computed in parts and its result put together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.runner_base import BusySpan, RunnerBase
from pathgene_rt.slides.encoded_region import EncodedBatch

Call = TypeVar("Call")

Work = dict[str, Array] | EncodedBatch
"""What a call computes: inputs by name, or an encoder's tiles as they are stored."""


@dataclass
class Submission(Generic[Call]):
    """Parts of one submission in their order: ``done``, the one that is ``running``, ``waiting``.

    ``span`` is that of a submission in one part; one in several ends with its result.
    """

    waiting: deque[Work]
    span: BusySpan | None
    running: tuple[Work, Call] | None = None
    done: list[dict[str, Array]] = field(default_factory=list)


class HalvingRunner(RunnerBase[Submission[Call]], Generic[Call]):
    """A runner whose calls may raise DeviceMemoryError, when started or when waited for.

    The first time, calls are halved from then on, with a warning; the second time it is raised, and
    so it is for a head, whose bag is one call. Of each submission one call is running at a time.
    """

    def __init__(self, spec: ModelSpec, info: EngineInfo, in_flight: int) -> None:
        super().__init__(spec, info, in_flight)
        self._halved_to: int | None = None
        self._most_tiles: int | None = None
        self._limited = ""

    def take_at_most(self, tiles: int, why: str) -> None:
        """Compute an encoder's submissions in calls of at most ``tiles``, and warn that it does.

        The warning takes the place of that of an earlier, higher limit.
        """
        self._most_tiles = tiles
        self._warnings = [text for text in self._warnings if text != self._limited]
        self._limited = f"{self._named}: {why}; it computes {tiles} tiles a call from then on"
        self.warn(self._limited)

    def halve_calls(self, tiles: int, error: DeviceMemoryError) -> int:
        """Take half of ``tiles`` from now on, more than which was the ``error``; returns it."""
        self._halved_to = (tiles + 1) // 2
        self.take_at_most(self._halved_to, f"out of GPU memory with {tiles} tiles ({error})")
        return self._halved_to

    @abstractmethod
    def _start_call(self, work: Work, span: BusySpan | None) -> Call:
        """As :meth:`RunnerBase._start` of what ``work`` holds, as one call."""

    @abstractmethod
    def _wait_call(self, call: Call) -> dict[str, Array]:
        """As :meth:`RunnerBase._wait` for one call."""

    @abstractmethod
    def _free_calls(self, running: list[Call]) -> None:
        """As :meth:`RunnerBase._free` where these calls run."""

    def _start(self, inputs: dict[str, Array], span: BusySpan) -> Submission[Call]:
        return self._begin(inputs, span)

    def _start_encoded(self, batch: EncodedBatch, span: BusySpan) -> Submission[Call]:
        return self._begin(batch, span)

    def _begin(self, work: Work, span: BusySpan) -> Submission[Call]:
        whole = self._most_tiles is None or _tiles(work) <= self._most_tiles
        parts = [work] if whole else _split(work, self._most_tiles or 1)
        submission: Submission[Call] = Submission(deque(parts), span if whole else None)
        self._start_next(submission)
        return submission

    def _wait(self, ticket: Submission[Call]) -> dict[str, Array]:
        while ticket.running is not None:
            (work, call), ticket.running = ticket.running, None
            try:
                ticket.done.append(self._wait_call(call))
            except DeviceMemoryError as error:
                self._halve(ticket, work, error)
            self._start_next(ticket)
        if len(ticket.done) == 1:
            return ticket.done[0]
        return {
            name: np.concatenate([part[name] for part in ticket.done]) for name in ticket.done[0]
        }

    def _free(self, outstanding: list[Submission[Call]]) -> None:
        self._free_calls([one.running[1] for one in outstanding if one.running is not None])

    def _start_next(self, submission: Submission[Call]) -> None:
        while submission.running is None and submission.waiting:
            work = submission.waiting.popleft()
            try:
                submission.running = work, self._start_call(work, submission.span)
            except DeviceMemoryError as error:
                self._halve(submission, work, error)

    def _halve(self, submission: Submission[Call], work: Work, error: DeviceMemoryError) -> None:
        """Put ``work`` back in halves, or raise if that is no way out."""
        tiles = _tiles(work)
        if self.spec.preprocess is None or tiles == 1:
            raise DeviceMemoryError(f"{error}; close what else uses the GPU") from error
        if self._halved_to is None:
            halved = self.halve_calls(tiles, error)
        elif tiles > self._halved_to:
            halved = self._halved_to  # of a call that was in flight when the first failed
        else:
            raise DeviceMemoryError(
                f"{error}, with {tiles} tiles a call, halved already; close what else uses the GPU "
                f"or give --batch {tiles // 2}"
            ) from error
        submission.span = None
        submission.waiting.extendleft(reversed(_split(work, halved)))


def _tiles(work: Work) -> int:
    """Of an encoder's call; of a head's, the length of its first input."""
    return len(work) if isinstance(work, EncodedBatch) else len(next(iter(work.values())))


def _split(work: Work, tiles: int) -> list[Work]:
    starts: Iterable[int] = range(0, _tiles(work), tiles)
    if isinstance(work, EncodedBatch):
        return [replace(work, regions=work.regions[at : at + tiles]) for at in starts]
    return [{name: array[at : at + tiles] for name, array in work.items()} for at in starts]
