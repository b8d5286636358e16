"""Whether a slide's file is the one that an earlier result was made of, by a few reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.files import reason
from pathgene_rt.options import IO_TIMEOUT_S
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.tiff.directories import walk

_PART_BYTES = 1 << 16
"""Of the head, of the end, and of each directory and each of its values."""


@dataclass(frozen=True)
class SlideFingerprint:
    """``content_sha256`` is of the slide's size, head, end and TIFF directories; ``time_sha256`` of
    that and of when the file was changed. Hex digits: neither tells a date."""

    content_sha256: str
    time_sha256: str

    @classmethod
    def of(cls, path: Path, io_timeout_s: float = IO_TIMEOUT_S) -> Self:
        """Of the slide ``path``; of MRXS also its folder's Slidedat.ini.

        Raises SlideOpenError, SlideReadError where no read ends for ``io_timeout_s``.
        """
        watch = ReadWatch(io_timeout_s)

        def read() -> tuple[str, str]:
            with watch.reading():
                return _digests(path)

        return cls(*run_watched(read, watch, path.stem, "its head could not be read"))

    @classmethod
    def of_bytes(cls, files: Iterable[tuple[BinaryIO, int]], time_ns: int) -> Self:
        """Of a slide that lies elsewhere: as of files of these bytes, each with its size, and that
        time; of MRXS its Slidedat.ini is the second. Raises what they raise.
        """
        content = hashlib.sha256()
        for file, size in files:
            _add(content, file, size)
        return cls(content.hexdigest(), _stamp(content.hexdigest(), [time_ns]))


def _digests(path: Path) -> tuple[str, str]:
    paths = [path]
    if path.suffix.lower() == ".mrxs":
        paths.append(path.parent / path.stem / "Slidedat.ini")
    content, times = hashlib.sha256(), []
    try:
        for one in paths:
            with one.open("rb") as file:
                status = one.stat()
                times.append(status.st_mtime_ns)
                _add(content, file, status.st_size)
    except OSError as error:
        raise SlideOpenError(f"cannot read {path}: {reason(error)}") from error
    return content.hexdigest(), _stamp(content.hexdigest(), times)


def _stamp(content: str, times: list[int]) -> str:
    return hashlib.sha256(f"{content} {times}".encode()).hexdigest()


def _add(content: hashlib._Hash, file: BinaryIO, size: int) -> None:
    content.update(b"%d\n" % size)
    for part in _parts(file, size):
        content.update(b"%d\n" % len(part) + part)


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    yield _read(file, 0)
    yield _read(file, max(0, size - _PART_BYTES))
    yield from _directories(file)


def _directories(file: BinaryIO) -> Iterator[bytes]:
    """The TIFF directories and the values they point at, as far as they make sense; of other files
    none. Their meaning does not matter here: tifffile would build a list of all tiles.
    """
    with suppress(ValueError):
        for directory in walk(file):
            yield directory.raw
            for entry in directory.entries:
                if entry.at is not None:
                    yield _read(file, entry.at, entry.claimed_bytes)


def _read(file: BinaryIO, at: int, count: int = _PART_BYTES) -> bytes:
    if at >= 1 << 63:
        return b""
    file.seek(at)
    return file.read(min(count, _PART_BYTES))
