"""Whether a slide's file is the one that an earlier result was made of, by a few reads."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.files import reason
from pathgene_rt.options import IO_TIMEOUT_S
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.tiff.claims import MAX_DIRECTORIES

_PART_BYTES = 1 << 16
"""Of the head, of the end, and of each directory and each of its values."""

_MAX_ENTRIES = 1 << 10
"""Of a directory; real ones have about 20."""

_VALUE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""By the number of a TIFF value's type."""


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


def _digests(path: Path) -> tuple[str, str]:
    companion = path.with_suffix("") / "Slidedat.ini"
    paths = [path, companion] if path.suffix.lower() == ".mrxs" else [path]
    content, times = hashlib.sha256(), []
    try:
        for one in paths:
            with one.open("rb") as file:
                status = one.stat()
                times.append(status.st_mtime_ns)
                content.update(b"%d\n" % status.st_size)
                for part in _parts(file, status.st_size):
                    content.update(b"%d\n" % len(part) + part)
    except OSError as error:
        raise SlideOpenError(f"cannot read {path}: {reason(error)}") from error
    stamp = f"{content.hexdigest()} {times}".encode()
    return content.hexdigest(), hashlib.sha256(stamp).hexdigest()


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    head = _read(file, 0, _PART_BYTES)
    yield head
    yield _read(file, max(0, size - _PART_BYTES), _PART_BYTES)
    yield from _directories(file, head[:16])


def _directories(file: BinaryIO, header: bytes) -> Iterator[bytes]:
    """The TIFF directories and the values they point at, as far as they make sense; of other files
    none. Their meaning does not matter here: tifffile would build a list of all tiles.
    """
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 16:
        return
    version = struct.unpack_from(f"{order}H", header, 2)[0]
    if version not in (42, 43):
        return
    big = version == 43
    counts, word, inline = ("Q", "Q", 8) if big else ("H", "I", 4)
    entry = struct.Struct(f"{order}HH{word}{inline}s")
    next_at = struct.unpack_from(f"{order}{word}", header, 8 if big else 4)[0]
    seen: set[int] = set()
    while next_at and next_at not in seen and len(seen) < MAX_DIRECTORIES:
        seen.add(next_at)
        count_bytes = struct.calcsize(f"{order}{counts}")
        raw = _read(file, next_at, count_bytes)
        if len(raw) < count_bytes:
            return
        entries = min(struct.unpack(f"{order}{counts}", raw)[0], _MAX_ENTRIES)
        directory = _read(file, next_at + count_bytes, entries * entry.size + inline)
        yield directory
        if len(directory) < entries * entry.size + inline:
            return
        for number in range(entries):
            _, kind, count, value = entry.unpack_from(directory, number * entry.size)
            length = count * _VALUE_BYTES[kind] if kind < len(_VALUE_BYTES) else 0
            if length > inline:
                at = struct.unpack(f"{order}{word}", value)[0]
                yield _read(file, at, min(length, _PART_BYTES))
        next_at = struct.unpack_from(f"{order}{word}", directory, entries * entry.size)[0]


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    if at >= 1 << 63:
        return b""
    file.seek(at)
    return file.read(count)
