"""A stored slide read by ranges: its directories first, then the encoded tiles that are asked for.

Only TIFFs of which every level is decoded here can be read so; others are fetched whole.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pathgene_rt.archive.stores import StoredSlide
from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.directories import walk
from pathgene_rt.slides.tiff.opening import open_tiff
from pathgene_rt.slides.tiff.reader import TiledSlide

READERS = 16
"""Threads that read where nothing else is asked for: each waits for the store most of the time."""

_HEAD_BYTES = 64 << 10
_MAX_VALUE_BYTES = 256 << 20
"""Of all that directories list; more is no slide to read by ranges."""


class RangedFile:
    """``slide`` as bytes at places. What was fetched, ``fetched`` bytes, lies at its place in the
    file ``path``, which has holes for all else. For several threads at once. It stays when a slide
    that reads it is closed, until :meth:`free`.
    """

    def __init__(self, slide: StoredSlide, path: Path) -> None:
        self.size, self.path, self.fetched = slide.version().size, path, 0
        self._slide = slide
        self._lock = threading.Lock()
        self._have: set[tuple[int, int]] = set()
        self._file = path.open("w+b", buffering=0)
        self._file.truncate(self.size)

    def read(self, offset: int, count: int, /) -> bytes:
        """``count`` bytes from ``offset`` on; fewer where the object ends. Raises as
        :meth:`StoredSlide.read` does, and OSError of the disk."""
        count = max(0, min(count, self.size - offset))
        with self._lock:
            if (offset, count) in self._have:
                self._file.seek(offset)
                return self._file.read(count) or b""
        data = self._slide.read(offset, count) if count else b""
        with self._lock:
            self._file.seek(offset)
            self._file.write(data)
            self._have.add((offset, count))
            self.fetched += count
        return data

    def close(self) -> None:
        """Nothing: another slide may be opened on it."""

    def free(self) -> None:
        """Close the file. No thread may be reading."""
        self._file.close()


class _Places(io.RawIOBase):
    """A :class:`RangedFile` to seek in and read from."""

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def by_ranges(
    slide: StoredSlide, fingerprint: SlideFingerprint, folder: Path, mpp: float | None
) -> Iterator[tuple[GivenSlide, RangedFile]]:
    """The slide, of ``mpp`` where it does not say its scale, and what it is read from; what is
    fetched lies in ``folder`` meanwhile.

    Raises SlideOpenError where it cannot be read so, and as :class:`StoredSlide` does.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = RangedFile(slide, Path(place) / slide.name)
        try:
            _fetch_directories(file)

            def opened() -> Slide:
                return _open(file, mpp)

            opened().close()
            given = GivenSlide(
                name=slide.name, fingerprint=fingerprint, open=opened, expect=_expect_nothing
            )
            yield given, file
        finally:
            file.free()


def _fetch_directories(file: RangedFile) -> None:
    """All that libraries read of a TIFF when they open it. Raises SlideOpenError."""
    values = 0
    try:
        with io.BufferedReader(_Places(file), _HEAD_BYTES) as places:
            for directory in walk(places):
                for entry in directory.entries:
                    values += entry.claimed_bytes
                    if values > _MAX_VALUE_BYTES:
                        raise ValueError("its directories are too large")
                    if entry.at is not None:
                        file.read(entry.at, entry.claimed_bytes)
    except ValueError as error:
        raise SlideOpenError(f"{file.path.name}: cannot be read by ranges: {error}") from error


def _open(file: RangedFile, mpp: float | None) -> Slide:
    slide = open_tiff(file.path, mpp, file)
    if isinstance(slide, TiledSlide) and slide.wholly_direct:
        return slide
    if slide is not None:
        slide.close()
    raise SlideOpenError(
        f"{file.path.name}: cannot be read by ranges: not all of its levels are decoded here"
    )


def _expect_nothing(grid: TileGrid, rows: Int64Array) -> None:
    """Tiles are fetched as they are asked for."""
