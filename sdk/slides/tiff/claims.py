"""What a TIFF claims before anything is read of it: directories, entries, values, tiles.

tifffile and libtiff allocate what an entry claims, which a sparse file of a few kilobytes on disk
can make gigabytes.
"""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.tiff.directories import (
    MAX_DIRECTORIES,
    Directory,
    ManyDirectoriesError,
    ManyEntriesError,
    walk,
)

MAX_TILES = 1 << 22
"""Of one directory: a slide of 130 x 130 mm at 0.25 um/px in tiles of 256 px."""

MAX_VALUE_BYTES = 256 << 20
"""Of one entry that does not list tiles, e.g. a description or a colour profile."""

_TILE_LISTS = frozenset({273, 279, 324, 325})
"""StripOffsets, StripByteCounts, TileOffsets, TileByteCounts."""


def require_bounded(path: Path, file_bytes: int) -> None:
    """Raise SlideOpenError unless the directories of ``path`` end and claim what a slide can have.

    Raises ValueError for what is no TIFF or cut short: others say more of that.
    """
    with path.open("rb") as file:
        try:
            for directory in walk(file):
                _require_bounded_values(path, directory, file_bytes)
        except ManyDirectoriesError as error:
            raise SlideOpenError(
                f"{path}: its directories go in a circle or are more than {MAX_DIRECTORIES}; "
                "the file is damaged: copy it again"
            ) from error
        except ManyEntriesError as error:
            raise SlideOpenError(
                f"{path}: a directory claims {error.entries} entries; the file is damaged: copy it "
                "again"
            ) from error


def _require_bounded_values(path: Path, directory: Directory, file_bytes: int) -> None:
    for entry in directory.entries:
        listed = entry.tag in _TILE_LISTS
        too_many = entry.count > MAX_TILES if listed else entry.claimed_bytes > MAX_VALUE_BYTES
        if too_many or entry.claimed_bytes > file_bytes:
            raise SlideOpenError(
                f"{path}: tag {entry.tag} claims {entry.count} values, {entry.claimed_bytes} bytes "
                f"of a file of {file_bytes}; the file is damaged: copy it again"
            )
