"""Tells slow reading from reading that has stalled, as on a network share that went away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from pathgene_rt.cancellation import INTERRUPTIBLE_S
from pathgene_rt.errors import SlideReadError

T = TypeVar("T")


class ReadWatch:
    """Reading has stalled when reads are under way and none of them has ended for ``timeout_s``.

    Threads that wait for something else, such as room for the next tile, are under no limit. A read
    that stalled cannot be stopped, only left behind: its thread must be a daemon, and what it
    writes to must not be used again. Thread-safe.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._changed = threading.Condition()
        self._under_way = 0
        self._progress_s = 0.0
        self._finished = False
        self.given_up = False
        """Whether a stall was raised: nobody waits for these reads any more."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around each read."""
        with self._changed:
            if self._under_way == 0:
                self._progress_s = time.monotonic()
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._progress_s = time.monotonic()

    def finish(self) -> None:
        """There will be no more reads."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def raise_if_stalled(self, slide_id: str, what: str) -> None:
        """Wait until :meth:`finish`. Raises SlideReadError as soon as reading has stalled.

        ``what`` is not getting on, e.g. "no tile could be read".
        """
        with self._changed:
            while not self._finished:
                now = time.monotonic()
                # A read that begins later stalls later: nothing can happen before the deadline.
                left = (self._progress_s if self._under_way else now) + self.timeout_s - now
                if left <= 0:
                    self.given_up = True
                    raise SlideReadError(
                        f"{slide_id}: {what} for {self.timeout_s:g} s; check the disk or network "
                        "share that it lies on, or give a longer --io-timeout"
                    )
                self._changed.wait(min(left, INTERRUPTIBLE_S))


def run_watched(action: Callable[[], T], watch: ReadWatch, slide_id: str, what: str) -> T:
    """The result of ``action``, run on a daemon thread so that its reads can be left behind.

    Raises what it raises; SlideReadError if its reads stall, ``what`` then saying what they are
    for. ``watch`` cannot be used again.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting caller
            outcome.set_exception(error)
        finally:
            watch.finish()

    threading.Thread(target=run, name="watched-read", daemon=True).start()
    watch.raise_if_stalled(slide_id, what)
    return outcome.result()
