"""Where the tiles of a TIFF's pictures lie in the file, and how they are stored.

tifffile parses the directories. Everything a hostile file could make large (sides, tiles, their
number and bytes) is checked here, before anything of that size is allocated or OpenSlide is asked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.scale import mpp_in
from pathgene_rt.slides.tiff.claims import require_bounded
from pathgene_rt.slides.tiff.compressed import PackedTiles, TileDecoder
from pathgene_rt.slides.tiff.directories import MAX_DIRECTORIES
from pathgene_rt.slides.tiff.storage import storage_of

MAX_TILE_PX = 1 << 24
"""Of one encoded tile: 4096 x 4096 px, 48 MB decoded."""

FREE_PX = 1 << 26
MAX_PX_A_BYTE = 4096
"""A level may have FREE_PX, whatever holds them, and so many for each byte of its tiles: a byte
holds 100 px of blank glass as JPEG, 1,000 as JPEG 2000, and most of a slide may be left out."""

STRIP_PX = 1 << 17
"""Strips of more pixels that are not compressed are read in parts of so many."""

_SLACK_BYTES = 1 << 16

MppPair = tuple[str | None, str | None]

_ASSOCIATED = re.compile(r"^(label|macro)\b", re.MULTILINE)
_UM_A_UNIT = {2: 25_400.0, 3: 10_000.0}


@dataclass(frozen=True)
class TiledLevel:
    """A level whose encoded tiles can be decoded one by one.

    ``size_px`` and ``tile_px`` are (w, h); tiles go in rows of ``across``, the last of a row or
    column reaching past the level's edge, or stored as far as the level goes (``clipped``).
    ``offsets`` and ``byte_counts`` int64 [planes * tiles] are places in the file, of all tiles of
    one sample before those of the next where ``planes`` is 3; a tile of 0 bytes is missing, one of
    -1 is as long as whoever reads it finds. The
    first pixel lies at ``origin_px`` of the level's canvas; ``origin_px`` is None where that is the
    canvas' own first.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    offsets: Int64Array
    byte_counts: Int64Array
    tiles: TileDecoder
    origin_px: tuple[float, float] | None = None
    planes: int = 1
    clipped: bool = False
    unwrap: Callable[[bytes], bytes] | None = None
    """Gives an encoded tile out of the bytes that are stored at its place; raises ValueError."""

    @property
    def across(self) -> int:
        return -(-self.size_px[0] // self.tile_px[0])


def tiles_under(levels: Sequence[TiledLevel], grid: TileGrid, rows: Int64Array) -> list[int]:
    """The encoded tiles of the grid's level, those that are not missing, under the tiles ``rows``
    of ``grid``, each once, in that order."""
    level = levels[grid.level]
    downsample = (
        sum(full / own for full, own in zip(levels[0].size_px, level.size_px, strict=True)) / 2
    )
    corners = np.floor(grid.xy[rows] / downsample + 0.5).astype(np.int64)
    (wide, high), down = level.tile_px, -(-level.size_px[1] // level.tile_px[1])
    found: dict[int, None] = {}
    for x, y in corners.tolist():
        last = (x + grid.read_px - 1) // wide, (y + grid.read_px - 1) // high
        for row in range(max(0, y // high), min(down - 1, last[1]) + 1):
            for column in range(max(0, x // wide), min(level.across - 1, last[0]) + 1):
                number = row * level.across + column
                if level.byte_counts[number]:
                    found[number] = None
    return list(found)


@dataclass(frozen=True)
class TiffDirectory:
    """What one directory of a TIFF says, checked against the file's size.

    ``associated``: it calls itself a label or macro picture. ``striped``: it holds strips, which
    are tiles as wide as the picture here. ``declared_mpp`` are um per pixel, x and y, in decimal
    digits: of the description, then of the resolution tags. It has ``samples`` a pixel, each in
    tiles of its own where ``planes`` is more than 1. ``below`` are the pictures of its SubIFDs.
    """

    number: int
    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    reduced: bool
    associated: bool
    striped: bool
    declared_mpp: tuple[MppPair, ...]
    samples: int
    planes: int
    offsets: Int64Array
    byte_counts: Int64Array
    tiles: TileDecoder | None
    why_not: str
    """Where ``tiles`` is None: what about their storage is not decoded directly."""
    below: tuple[TiffDirectory, ...] = ()

    @property
    def area_px(self) -> int:
        return self.size_px[0] * self.size_px[1]

    def level(
        self, size_px: tuple[int, int] | None = None, origin_px: tuple[float, float] | None = None
    ) -> TiledLevel:
        """It as a level, of its own size or ``size_px``. Raises ValueError where its tiles are not
        decoded to three samples.
        """
        if self.tiles is None or self.samples != 3:
            raise ValueError(self.why_not or "a grey picture")
        return TiledLevel(
            size_px or self.size_px,
            self.tile_px,
            self.offsets,
            self.byte_counts,
            self.tiles,
            origin_px,
            self.planes,
            self.striped,
        )


def read_directories(path: Path) -> tuple[list[TiffDirectory], str]:
    """The pictures of the TIFF ``path`` in order, and the first one's description. Strips that
    are damaged cannot be decoded; tiles that are refuse the file.

    Raises SlideOpenError where sizes are absurd or tiles lie outside the file; ValueError where
    tifffile cannot make sense of the directories (OpenSlide may).
    """
    import tifffile

    # Its warnings name the file, and where it matters the error below says more: they go where a
    # host sends them, not to stderr.
    log = tifffile.logger()
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    file_bytes = path.stat().st_size
    require_bounded(path, file_bytes)
    directories, description = [], ""
    try:
        with opened_tiff(path) as tiff:
            for number, page in enumerate(_pages(tiff.pages)):
                if number == 0:
                    description = str(page.description)
                directories.append(_picture(path, number, page, file_bytes))
    except SlideOpenError:
        raise
    except Exception as error:
        # A parser of many formats, fed with anything: what it raises is not a contract.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return directories, description


@contextmanager
def opened_tiff(path: Path) -> Iterator[Any]:
    """tifffile's TiffFile of ``path``. Raises what tifffile raises."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        try:
            yield tiff
        finally:
            # It and its directories know each other: numbers for each tile, that would stay until
            # the next collection of all garbage.
            vars(tiff).pop("pages", None)


def _pages(pages: Any) -> Iterator[Any]:
    import tifffile

    for number in range(MAX_DIRECTORIES):
        try:
            page = pages[number]
        except IndexError:
            return
        if not isinstance(page, tifffile.TiffPage):
            raise ValueError(f"directory {number} is incomplete")
        yield page


def _picture(path: Path, number: int, page: Any, file_bytes: int) -> TiffDirectory:
    """The directory ``page``, with those below it."""
    below: tuple[TiffDirectory, ...] = ()
    if page.subifds:
        below = tuple(_picture(path, number, one, file_bytes) for one in _pages(page.pages))
    size_px = checked_size(path, (int(page.imagewidth), int(page.imagelength)))
    try:
        return _directory(path, number, page, size_px, file_bytes, below)
    except SlideOpenError as error:
        if page.is_tiled:
            raise
        # Labels and thumbnails, mostly, which nobody reads; but never is a smaller one the slide.
        nowhere = np.zeros(0, np.int64)
        why_not = str(error).removeprefix(f"{path}: ").partition(";")[0]
        return TiffDirectory(
            number, size_px, size_px, False, False, True, (), 0, 1, nowhere, nowhere, None, why_not
        )


def _directory(
    path: Path,
    number: int,
    page: Any,
    size_px: tuple[int, int],
    file_bytes: int,
    below: tuple[TiffDirectory, ...],
) -> TiffDirectory:
    if page.is_tiled:
        tile_px = (int(page.tilewidth), int(page.tilelength))
        _require_small(path, tile_px)
    else:
        tile_px = (size_px[0], min(int(page.rowsperstrip), size_px[1]))
    samples = int(page.samplesperpixel)
    planes = samples if int(page.planarconfig) == 2 else 1
    expected = -(-size_px[0] // tile_px[0]) * -(-size_px[1] // max(1, tile_px[1])) * planes
    if len(page.dataoffsets) != expected or len(page.databytecounts) != expected:
        raise SlideOpenError(
            f"{path}: directory {number} needs {expected} encoded tiles but lists the places "
            f"of {len(page.dataoffsets)} and the sizes of {len(page.databytecounts)}; the file is "
            "damaged: copy it again"
        )
    offsets = np.array(page.dataoffsets, dtype=np.uint64)
    byte_counts = np.array(page.databytecounts, dtype=np.uint64)
    present = byte_counts > 0
    limit = np.uint64(file_bytes)
    # In this order, so that no sum overflows.
    outside = present & ((offsets > limit) | (byte_counts > limit - np.minimum(offsets, limit)))
    if outside.any():
        raise SlideOpenError(
            f"{path}: cut short (it has {file_bytes} bytes, but encoded tile "
            f"{int(np.argmax(outside))} of directory {number} lies beyond); copy it again"
        )
    # Tiles may share their bytes.
    pixels, stored = size_px[0] * size_px[1], min(file_bytes, int(byte_counts.sum()))
    if pixels > FREE_PX + MAX_PX_A_BYTE * stored:
        raise SlideOpenError(
            f"{path}: directory {number} claims {size_px[0]} x {size_px[1]} px in {stored} bytes; "
            "the file is damaged: copy it again"
        )
    tiles, why_not = storage_of(page, tile_px)
    if not page.is_tiled and isinstance(tiles, PackedTiles) and tiles.packing == "none":
        tile_px, offsets, byte_counts = _split(
            size_px, tile_px, samples // planes, offsets, byte_counts
        )
    _require_small(path, tile_px)
    most = 2 * 3 * tile_px[0] * tile_px[1] + _SLACK_BYTES
    if tiles is not None and (byte_counts > np.uint64(most)).any():
        raise SlideOpenError(
            f"{path}: a compressed tile of {tile_px[0]} x {tile_px[1]} px claims "
            f"{int(byte_counts.max())} bytes; the file is damaged: copy it again"
        )
    return TiffDirectory(
        number,
        size_px,
        tile_px,
        bool(int(page.subfiletype) & 1),
        _ASSOCIATED.search(str(page.description)) is not None,
        not page.is_tiled,
        _declared_mpp(page),
        samples,
        planes,
        offsets.astype(np.int64),
        byte_counts.astype(np.int64),
        tiles,
        why_not,
        below,
    )


def _require_small(path: Path, tile_px: tuple[int, int]) -> None:
    if not (min(tile_px) > 0 and tile_px[0] * tile_px[1] <= MAX_TILE_PX):
        raise SlideOpenError(
            f"{path}: claims encoded tiles of {tile_px[0]} x {tile_px[1]} px; up to "
            f"{MAX_TILE_PX} px in all are read: the file is damaged, or convert it"
        )


def _split(
    size_px: tuple[int, int], tile_px: tuple[int, int], samples: int, offsets: Any, byte_counts: Any
) -> tuple[tuple[int, int], Any, Any]:
    """Strips of ``samples`` bytes a pixel, one after another, as strips of about STRIP_PX: their
    size, offsets and byte counts, in whole parts of those there are.
    """
    width, rows = tile_px
    wanted = min(max(1, STRIP_PX // width), rows)
    if len(offsets) > 1:
        wanted = next(part for part in range(wanted, 0, -1) if rows % part == 0)
    row_bytes = np.uint64(width * samples)
    starts, counts = [], []
    left = 0
    for offset, stored in zip(offsets.tolist(), byte_counts.tolist(), strict=True):
        left = left or size_px[1]  # each sample's strips begin at the top again
        high = min(rows, left)
        tops = np.arange(0, high, wanted, dtype=np.uint64)
        parts = np.minimum(np.uint64(wanted), np.uint64(high) - tops) * row_bytes
        starts.append(np.uint64(offset) + tops * row_bytes)
        # A strip that is missing, or damaged, stays so.
        counts.append(parts if stored >= high * int(row_bytes) else np.minimum(parts, stored))
        left -= high
    return (width, wanted), np.concatenate(starts), np.concatenate(counts)


def _declared_mpp(page: Any) -> tuple[MppPair, ...]:
    described = mpp_in(str(page.description))
    stated = [] if described is None else [(described, described)]
    um = _UM_A_UNIT.get(int(page.resolutionunit))
    x, y = page.resolution
    if um is not None and x and y:
        stated.append((f"{um / x:.10g}", f"{um / y:.10g}"))
    return tuple(stated)
