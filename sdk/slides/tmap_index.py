"""Whether a TMAP file holds all tiles that it lists: tmapslide leaves those blank that lie beyond
the end, and takes memory for as many as a header claims.

By the layout on which tmapslide reads both versions; all little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_LEVELS_AT, _MAX_LEVELS = 560, 16
_LEVEL = np.dtype(
    {
        "names": ["width", "height", "rows", "columns", "table"],
        "formats": ["<u4"] * 5,
        "offsets": [8, 12, 16, 20, 24],
        "itemsize": 32,
    }
)
_TILE = np.dtype(
    {"names": ["at", "bytes"], "formats": ["<u8", "<u4"], "offsets": [24, 32], "itemsize": 40}
)
"""Version 07: a table of levels, and for each a table of its tiles, of which the blank have zeros.
"""

_COUNTS = np.dtype(
    {
        "names": ["blocks", "shrunk"],
        "formats": ["<u4"] * 2,
        "offsets": [0x14, 0x2C],
        "itemsize": 192,
    }
)
_PLACE = np.dtype(
    {"names": ["at", "bytes"], "formats": ["<u4"] * 2, "offsets": [4, 8], "itemsize": 12}
)
_BLOCK = np.dtype(
    {
        "names": ["file", "column", "row", "tiles"],
        "formats": ["u1", "<u2", "<u2", (_PLACE, 24)],
        "offsets": [0, 8, 10, 20],
        "itemsize": 308,
    }
)
_SHRUNK = np.dtype(
    {
        "names": ["file", "at", "bytes"],
        "formats": ["u1", "<u4", "<u4"],
        "offsets": [0, 12, 16],
        "itemsize": 20,
    }
)
"""Version 06: blocks of up to 24 tiles, then smaller pictures of blocks; each in this file, 0, or
in one beside it. An empty block is in column and row ``_NOWHERE``."""
_NOWHERE = 0xFFFF


def require_whole(path: Path) -> None:
    """Raise ValueError if tiles that the TMAP file ``path`` lists lie beyond its end, or that of a
    file beside it which is there."""
    with path.open("rb") as file:
        version = file.read(6)[4:]
        if version == b"07":
            _require_levels(file)
        elif version == b"06":
            _require_blocks(file, path)


def _require_levels(file: BinaryIO) -> None:
    file_bytes = file.seek(0, 2)
    for number, level in enumerate(_table(file, _LEVEL, _LEVELS_AT, _MAX_LEVELS, "levels")):
        if not level["width"] or not level["height"]:
            continue
        tiles = int(level["rows"]) * int(level["columns"])
        table = _table(file, _TILE, int(level["table"]), tiles, f"tiles of level {number}")
        if ((table["bytes"] == 0) & (table["at"] > 0)).any():
            raise ValueError(f"the table of tiles of level {number} is damaged")
        _require_within(table["at"], table["bytes"], file_bytes)


def _require_blocks(file: BinaryIO, path: Path) -> None:
    ends = {0: file.seek(0, 2)}
    counts = _table(file, _COUNTS, 0, 1, "header")[0]
    after = _COUNTS.itemsize + int(counts["blocks"]) * _BLOCK.itemsize
    blocks = _table(file, _BLOCK, _COUNTS.itemsize, int(counts["blocks"]), "blocks")
    blocks = blocks[(blocks["column"] != _NOWHERE) | (blocks["row"] != _NOWHERE)]
    shrunk = _table(file, _SHRUNK, after, int(counts["shrunk"]), "small pictures")
    for number in np.union1d(blocks["file"], shrunk["file"]).tolist():
        beside = _beside(path, number)
        if beside is not None:
            ends[number] = beside.stat().st_size
    for number, end in ends.items():
        tiles = blocks[blocks["file"] == number]["tiles"]
        _require_within(tiles["at"], tiles["bytes"], end)
        small = shrunk[shrunk["file"] == number]
        _require_within(small["at"], small["bytes"], end)


def _beside(path: Path, number: int) -> Path | None:
    """The file of that number which belongs to ``path``, if there is one."""
    names = (path.with_suffix(f".{suffix}{number}") for suffix in ("DT", "dt"))
    return next((one for one in names if number and one.is_file()), None)


def _table(
    file: BinaryIO, entry: np.dtype[np.void], at: int, count: int, what: str
) -> NDArray[np.void]:
    """``count`` entries from byte ``at`` on. Raises ValueError where the file has fewer."""
    size = count * entry.itemsize
    if at + size > file.seek(0, 2):
        raise ValueError(f"cut short: it has no {count} {what}")
    file.seek(at)
    return np.frombuffer(file.read(size), entry)


def _require_within(at: NDArray[np.integer], size: NDArray[np.integer], end: int) -> None:
    beyond = (size > 0) & ((at > end) | (size.astype(np.uint64) + at > end))
    if beyond.any():
        raise ValueError(f"cut short: {np.count_nonzero(beyond)} of its tiles lie beyond its end")
