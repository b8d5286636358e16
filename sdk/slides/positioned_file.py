"""Bytes of a file at given places, for several threads at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path


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
        if hasattr(os, "pread"):
            # A short read that is not the end happens on some network file systems.
            parts = []
            while count > 0 and (part := os.pread(self._file.fileno(), count, offset)):
                parts.append(part)
                offset += len(part)
                count -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        with self._lock:
            self._file.seek(offset)
            parts = []
            while count > 0 and (part := self._file.read(count)):
                parts.append(part)
                count -= len(part)
            return b"".join(parts)

    def close(self) -> None:
        """Idempotent. No thread may be reading."""
        self._file.close()
