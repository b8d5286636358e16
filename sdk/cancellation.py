"""One stop button for all threads of a slide: the first failure wins and everyone wakes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from pathgene_rt.errors import CancelledError

INTERRUPTIBLE_S = 0.5
"""Ctrl-C reaches a waiting main thread only between waits on Windows; elsewhere this never matters,
since every change of state notifies."""


class CancellationToken:
    """Shared by the stages of one slide. Thread-safe; cancelling twice keeps the first cause."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: BaseException | None = None
        self._wakers: list[Callable[[], None]] = []

    def cancel(self, cause: BaseException | None = None) -> None:
        """Stop every stage. ``cause`` is what :meth:`raise_if_cancelled` raises in the others."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause or CancelledError("stopped on request; nothing was written")
            # Kept, they would tie the stages into a cycle that holds a slide's memory for long.
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def child(self) -> CancellationToken:
        """A token that is cancelled with this one, but also alone."""
        child = CancellationToken()
        # A batch's token outlives its slides, and must not keep what their tokens would wake.
        waiting = weakref.ref(child)

        def pass_on() -> None:
            if (alive := waiting()) is not None:
                alive.cancel(self._cause)

        self.on_cancel(pass_on)
        return child

    @property
    def cancelled(self) -> bool:
        return self._cause is not None

    def raise_if_cancelled(self) -> None:
        """Raise the first cause, if there is one."""
        if self._cause is not None:
            raise self._cause

    def drop_traceback(self) -> None:
        """Of the cause, when all stages are over: its frames hold what they worked on."""
        if self._cause is not None:
            self._cause.__traceback__ = None

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when cancelled (at once if that has happened), to end its waiting."""
        with self._lock:
            if self._cause is None:
                self._wakers.append(wake)
                return
        wake()
