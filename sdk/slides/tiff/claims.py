"""What a TIFF claims before anything is read of it: directories, entries, values, tiles.

tifffile and libtiff allocate what an entry claims, which a sparse file of a few kilobytes on disk
can make gigabytes. The format: TIFF 6.0, section 2, and BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pathgene_rt.errors import SlideOpenError

MAX_DIRECTORIES = 1024
MAX_ENTRIES = 1024
MAX_TILES = 1 << 22
"""Of one directory: a slide of 130 x 130 mm at 0.25 um/px in tiles of 256 px."""

MAX_VALUE_BYTES = 256 << 20
"""Of one entry that does not list tiles, e.g. a description or a colour profile."""

_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_BYTES |= {16: 8, 17: 8, 18: 8}
_TILE_LISTS = frozenset({273, 279, 324, 325})
"""StripOffsets, StripByteCounts, TileOffsets, TileByteCounts."""


@dataclass(frozen=True)
class _Form:
    """How numbers lie in a classic TIFF or a BigTIFF."""

    order: str
    count: str
    entry: str
    offset: str

    @classmethod
    def of(cls, head: bytes) -> tuple[_Form, int]:
        """Of a file that begins with ``head``, and where its first directory lies."""
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            raise ValueError("no TIFF")
        (version,) = struct.unpack(order + "H", head[2:4])
        if version == 42:
            form = cls(order, order + "H", order + "HHI4x", order + "I")
            return form, struct.unpack(form.offset, head[4:8])[0]
        if version == 43 and head[4:8] == struct.pack(order + "HH", 8, 0):
            form = cls(order, order + "Q", order + "HHQ8x", order + "Q")
            return form, struct.unpack(form.offset, head[8:16])[0]
        raise ValueError("no TIFF")


def require_bounded(path: Path, file_bytes: int) -> None:
    """Raise SlideOpenError unless the directories of ``path`` end and claim what a slide can have.

    Raises ValueError for what is no TIFF or cut short: others say more of that.
    """
    with path.open("rb") as file:
        form, at = _Form.of(file.read(16))
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) == MAX_DIRECTORIES:
                raise SlideOpenError(
                    f"{path}: its directories go in a circle or are more than {MAX_DIRECTORIES}; "
                    "the file is damaged: copy it again"
                )
            seen.add(at)
            at = _next_directory(path, file, form, at, file_bytes)


def _next_directory(path: Path, file: IO[bytes], form: _Form, at: int, file_bytes: int) -> int:
    """Check the directory at byte ``at``; where the next one lies, 0 after the last."""
    if at >= file_bytes:
        raise ValueError("a directory lies past the end")
    file.seek(at)
    (entries,) = _read(file, form.count)
    if entries > MAX_ENTRIES:
        raise SlideOpenError(
            f"{path}: a directory claims {entries} entries; the file is damaged: copy it again"
        )
    size = struct.calcsize(form.entry)
    table = file.read(entries * size)
    if len(table) < entries * size:
        raise ValueError("a directory is cut short")
    for tag, kind, count in struct.iter_unpack(form.entry, table):
        claimed = count * _VALUE_BYTES.get(kind, 8)
        too_many = count > MAX_TILES if tag in _TILE_LISTS else claimed > MAX_VALUE_BYTES
        if too_many or claimed > file_bytes:
            raise SlideOpenError(
                f"{path}: tag {tag} claims {count} values, {claimed} bytes of a file of "
                f"{file_bytes}; the file is damaged: copy it again"
            )
    return int(_read(file, form.offset)[0])


def _read(file: IO[bytes], form: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError("a directory is cut short")
    return struct.unpack(form, data)
