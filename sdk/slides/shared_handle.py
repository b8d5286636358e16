"""A handle that several threads use, and that is freed by whoever lets go of it last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Handle = TypeVar("Handle")


class HandleClosedError(Exception):
    """The handle was closed before it was to be used."""


class SharedHandle(Generic[Handle]):
    """``handle``, until :meth:`close`.

    To free a library's or the system's handle while a thread is in it crashes, or reads another
    file. To wait for that thread could take forever (a network share that went away). So the last
    use to end frees it.
    """

    def __init__(self, handle: Handle, free: Callable[[], None]) -> None:
        self._handle = handle
        self._free = free
        self._lock = threading.Lock()
        self._uses = 0
        self._closed = False

    def __enter__(self) -> Handle:
        """The handle, valid inside the ``with``. Raises HandleClosedError."""
        with self._lock:
            if self._closed:
                raise HandleClosedError
            self._uses += 1
        return self._handle

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._uses -= 1
            self._free_if_idle()

    def close(self) -> None:
        """Refuse further uses. Idempotent, does not wait."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free_if_idle()

    def _free_if_idle(self) -> None:
        if self._closed and self._uses == 0:
            self._free()
