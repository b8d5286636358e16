"""Which slides come first, by patterns of their names in a file that may change meanwhile."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

_MAX_BYTES = 1 << 20


class Priority:
    """Patterns (``*``, ``?``, ``[...]``), one a line; empty lines and those with ``#`` first are
    passed over. The file is read anew when it changed; one that cannot be read has no pattern."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._patterns: list[str] = []

    def rank(self, name: str) -> int:
        """The number of the first pattern that ``name`` matches; behind all if none."""
        self._refresh()
        for number, pattern in enumerate(self._patterns):
            if fnmatch(name, pattern):
                return number
        return len(self._patterns)

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_size
            if stamp == self._stamp:
                return
            with self._path.open("rb") as file:
                text = file.read(_MAX_BYTES).decode("utf-8-sig", "replace")
        except OSError:
            self._stamp, self._patterns = None, []
            return
        lines = (line.strip() for line in text.splitlines())
        self._stamp, self._patterns = stamp, [one for one in lines if one and one[0] != "#"]
