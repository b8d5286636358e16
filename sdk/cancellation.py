"""One stop button for all threads of a slide: the first failure wins and everyone wakes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import MethodType

from pathgene_rt.errors import CancelledError

INTERRUPTIBLE_S = 0.5
"""Ctrl-C reaches a waiting main thread only between waits on Windows; elsewhere this never matters,
since every change of state notifies."""


class CancellationToken:
    """Shared by the stages of one slide. Thread-safe; cancelling twice keeps the first cause."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: BaseException | None = None
        self._wakers: list[Callable[[], Callable[[], None] | None]] = []
        self._parent: CancellationToken | None = None

    def cancel(self, cause: BaseException | None = None) -> None:
        """Stop every stage. ``cause`` is what :meth:`raise_if_cancelled` raises in the others."""
        with self._lock:
            if self._cause is not None:
                return
            self._cause = cause or CancelledError("stopped on request; nothing was written")
            wakers, self._wakers = self._wakers, []
        for waiting in wakers:
            if (wake := waiting()) is not None:
                wake()

    def child(self) -> CancellationToken:
        """A token that is cancelled with this one, but also alone."""
        child = CancellationToken()
        child._parent = self
        self.on_cancel(child._cancel_with_parent)
        return child

    def _cancel_with_parent(self) -> None:
        assert self._parent is not None
        self.cancel(self._parent._cause)

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
        """Call ``wake`` when cancelled (at once if that has happened), to end its waiting. A method
        is called if its object is still there, which this does not keep: a batch's token outlives
        its slides, and a stage that knows its token would be a cycle that holds a slide's memory
        for long.
        """
        with self._lock:
            if self._cause is None:
                self._wakers = [one for one in self._wakers if one() is not None]
                self._wakers.append(
                    weakref.WeakMethod(wake) if isinstance(wake, MethodType) else lambda: wake
                )
                return
        wake()
