"""Bytes of a file at given places, for several threads at once."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Sequence
from pathlib import Path

_HAS_PREAD = hasattr(os, "pread")
"""Not on Windows."""


class PositionedFile:
    """An open file without a current position. Raises OSError as the system does.

    Never mapped into memory: a mapped file that another program shortens, or a network share that
    goes away, ends the process instead of raising.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on; fewer where the file ends."""
        data = self._some(offset, count)
        # A read may be short without the file ending, on some network shares.
        while 0 < len(data) < count:
            more = self._some(offset + len(data), count - len(data))
            if not more:
                break
            data += more
        return data

    def _some(self, offset: int, count: int) -> bytes:
        if _HAS_PREAD:
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def close(self) -> None:
        """Idempotent. No thread may be reading."""
        self._file.close()


class JoinedFiles:
    """Several files as one: the places of each follow those of the one before, by the size that it
    had when it was opened. Raises OSError as the system does.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[PositionedFile] = []
        self._starts: list[int] = []
        start = 0
        try:
            for path in paths:
                self._files.append(PositionedFile(path))
                self._starts.append(start)
                start += path.stat().st_size
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on, within one file; fewer where that ends."""
        number = bisect.bisect_right(self._starts, offset) - 1
        return self._files[number].read(offset - self._starts[number], count)

    def close(self) -> None:
        """Idempotent. No thread may be reading."""
        for file in self._files:
            file.close()
