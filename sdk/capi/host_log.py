"""Messages for the host's log callback, and streams that take what is printed there."""

from __future__ import annotations

import io
import threading
import traceback
from typing import Any, ClassVar


class HostLog:
    """Sends lines to the callback that the host has set; one at a time, from any thread."""

    ERROR: ClassVar[int] = 1
    WARNING: ClassVar[int] = 2
    INFO: ClassVar[int] = 3

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi
        self._lock = threading.RLock()
        self._callback: Any = ffi.NULL
        self._user: Any = ffi.NULL

    def set_callback(self, callback: Any, user: Any) -> None:
        """Replace the callback, after the calls of the previous one have returned."""
        with self._lock:
            self._callback, self._user = callback, user

    def write(self, level: int, line: str) -> None:
        """Send one line, if anyone listens."""
        with self._lock:
            if self._callback != self._ffi.NULL:
                text = self._ffi.new("char[]", line.encode(errors="replace"))
                self._callback(self._user, level, text)

    def exception(self, error: BaseException) -> None:
        """Send an error that the library did not expect, with where it happened."""
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.write(self.ERROR, line)

    def stream(self, level: int) -> LogStream:
        """A text stream whose lines are sent with ``level``."""
        return LogStream(self, level)


class LogStream(io.TextIOBase):
    """A text stream whose whole lines go to the log."""

    encoding = "utf-8"

    def __init__(self, log: HostLog, level: int) -> None:
        super().__init__()
        self._log = log
        self._level = level
        self._pending = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        for line in lines:
            self._log.write(self._level, line)
        return len(text)
