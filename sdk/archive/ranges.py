"""A stored slide read by ranges: its directories first, then the encoded tiles that are asked for.

Only TIFFs of which every level is decoded here can be read so; others are fetched whole.
"""

from __future__ import annotations

import bisect
import io
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pathgene_rt.archive.stores import StoredSlide
from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.directories import walk
from pathgene_rt.slides.tiff.layout import TiledLevel, tiles_under
from pathgene_rt.slides.tiff.opening import open_tiff
from pathgene_rt.slides.tiff.reader import TiledSlide

READERS = 16
"""Threads that read where nothing else is asked for: each waits for the store most of the time."""

_RUN_BYTES = 1 << 20
"""Of tiles that lie close together, fetched by one request."""

_GAP_BYTES = 16 << 10
"""Between two of them, fetched for nothing: less than a request costs."""

_HEAD_BYTES = 64 << 10
_MAX_VALUE_BYTES = 256 << 20
"""Of all that directories list; more is no slide to read by ranges."""


@dataclass
class _Run:
    """Bytes from ``first`` to before ``end`` that are fetched together."""

    first: int
    end: int
    lock: threading.Lock = field(default_factory=threading.Lock)


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
        self._runs: list[_Run] = []
        self._file = path.open("w+b", buffering=0)
        self._file.truncate(self.size)

    def read(self, offset: int, count: int, /) -> bytes:
        """``count`` bytes from ``offset`` on; fewer where the object ends. Raises as
        :meth:`StoredSlide.read` does, and OSError of the disk."""
        count = max(0, min(count, self.size - offset))
        number = bisect.bisect_right(self._runs, offset, key=lambda run: run.first) - 1
        run = self._runs[number] if number >= 0 else None
        if run is not None and offset + count <= run.end:
            with run.lock:  # whoever comes second waits for the first
                self._fetch(run.first, run.end - run.first)
        else:
            self._fetch(offset, count)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def expect(self, places: Iterable[tuple[int, int]]) -> None:
        """Of the ``places``, (offset, count) each, those that lie close together are from now on
        fetched together, as soon as one of them is read. Not while a thread reads."""
        runs: list[_Run] = []
        for first, count in sorted(places):
            last = runs[-1] if runs else None
            if (
                last is not None
                and first - last.end <= _GAP_BYTES
                and first + count - last.first <= _RUN_BYTES
            ):
                last.end = max(last.end, first + count)
            else:
                runs.append(_Run(first, first + count))
        self._runs = runs

    def _fetch(self, offset: int, count: int) -> None:
        with self._lock:
            if not count or (offset, count) in self._have:
                return
        data = self._slide.read(offset, count)
        with self._lock:
            self._file.seek(offset)
            self._file.write(data)
            self._have.add((offset, count))
            self.fetched += count

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

            with _open(file, mpp) as first:
                levels = first.direct_levels
            coarse = [place for level in levels[1:] for place in _places_of(level)]
            file.expect(coarse)

            def expect(grid: TileGrid, rows: Int64Array) -> None:
                chosen = tiles_under(levels, grid, rows)
                file.expect([*coarse, *_places_of(levels[grid.level], chosen)])

            given = GivenSlide(name=slide.name, fingerprint=fingerprint, open=opened, expect=expect)
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


def _places_of(
    level: TiledLevel, numbers: Sequence[int] | None = None
) -> Iterator[tuple[int, int]]:
    """(offset, count) of encoded tiles; of all of the level without ``numbers``."""
    tiles = len(level.offsets) // level.planes
    for number in range(tiles) if numbers is None else numbers:
        for plane in range(level.planes):
            at = number + plane * tiles
            if level.byte_counts[at] > 0:
                yield int(level.offsets[at]), int(level.byte_counts[at])


def _open(file: RangedFile, mpp: float | None) -> TiledSlide:
    slide = open_tiff(file.path, mpp, file)
    if isinstance(slide, TiledSlide) and slide.wholly_direct:
        return slide
    if slide is not None:
        slide.close()
    raise SlideOpenError(
        f"{file.path.name}: cannot be read by ranges: not all of its levels are decoded here"
    )
