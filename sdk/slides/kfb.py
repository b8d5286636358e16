"""KFBio slides (KFB): the index of tiles in JPEG, decoded as those of TIFF are.

The maker publishes no description. The layout is that on which readers agree which others published
(forks of OpenSlide, converters): a header of 96 bytes, then pictures, then an index of 64 bytes a
tile, all little-endian. No real file could be had here, and every slide's report says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.files import reason
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.pyramid import is_level_of
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.tiff.jpeg import JpegTiles
from pathgene_rt.slides.tiff.layout import MAX_TILE_PX, TiledLevel
from pathgene_rt.slides.tiff.reader import TiledSlide, slide_of_levels

START = b"\xf1\x01\xee\xeeKFB\0"

MAX_TILES = 1 << 22

UNTRIED = (
    "read by the layout of KFB that others published, which was not tried on a file of a scanner: "
    "compare the slide's pictures with the maker's viewer"
)

_HEADER = np.dtype(
    {
        "names": ["tiles", "height", "width", "codec", "index", "mpp", "tile_px"],
        "formats": ["<u4", "<u4", "<u4", "S2", "<u4", "<f4", "<u4"],
        "offsets": [0x10, 0x14, 0x18, 0x20, 0x44, 0x4C, 0x58],
        "itemsize": 0x60,
    }
)
_TILE = np.dtype(
    {
        "names": ["start", "x", "y", "width", "height", "scale", "bytes", "offset", "high", "end"],
        "formats": ["S4", "<i4", "<i4", "<i4", "<i4", "<f4", "<i4", "<u4", "<i4", "S4"],
        "offsets": [0, 4, 8, 12, 16, 20, 32, 36, 40, 60],
        "itemsize": 64,
    }
)
_TILE_START, _TILE_END = b"\xf1\x04\xee\xee", b"\xff\x04\xee\xee"
_JPEG_START = b"\xff\xd8"


def open_kfb(path: Path, mpp: float | None) -> TiledSlide:
    """The slide in the KFB file ``path``. Raises SlideOpenError."""
    try:
        header, tiles = _read(path)
        levels = _levels(path, header, tiles)
    except OSError as error:
        raise SlideOpenError(f"{path}: {reason(error)}; check the path") from error
    except ValueError as error:
        raise SlideOpenError(
            f"{path}: a KFBio slide, but {error}; copy it again, or export it as SVS or TIFF with "
            "K-Viewer"
        ) from error
    stated = f"{header['mpp']:.6g}"
    scale = settled_scale(stated, stated, mpp)
    return slide_of_levels(path, [path], levels, scale, "kfb", [UNTRIED])


def _read(path: Path) -> tuple[np.void, NDArray[np.void]]:
    """The header, and the index as :func:`_placed` gives it. Raises ValueError, SlideOpenError."""
    with path.open("rb") as file:
        file_bytes = file.seek(0, 2)
        file.seek(0)
        head = file.read(_HEADER.itemsize)
        if len(head) < _HEADER.itemsize:
            raise ValueError("cut short")
        header = np.frombuffer(head, _HEADER)[0]
        checked_size(path, (int(header["width"]), int(header["height"])))
        tile_px, count, index = (int(header[name]) for name in ("tile_px", "tiles", "index"))
        if bytes(header["codec"]) != b"JP":
            raise ValueError(f"in the codec {bytes(header['codec'])!r}")
        if not 0 < tile_px * tile_px <= MAX_TILE_PX:
            raise ValueError(f"it claims tiles of {tile_px} px")
        if not 0 < count <= MAX_TILES or index + count * _TILE.itemsize > file_bytes:
            raise ValueError(f"its index of {count} tiles is not all there")
        file.seek(index)
        tiles = np.frombuffer(file.read(count * _TILE.itemsize), _TILE)
        if (tiles["start"] != _TILE_START).any() or (tiles["end"] != _TILE_END).any():
            raise ValueError("its index is not of the known layout")
        return header, _placed(tiles, index, file_bytes)


def _placed(tiles: NDArray[np.void], index: int, file_bytes: int) -> NDArray[np.void]:
    """``tiles`` with a field "at": the byte where each begins. Raises ValueError.

    It is stored less the place of the index, before which tiles lie: in 64 bits, or in 32 of which
    the upper ones are left out.
    """
    low, high = tiles["offset"].astype(np.int64), tiles["high"].astype(np.int64)
    for at in (index + (high << 32) + low, index - (1 << 32) + low):
        if ((at > 0) & (tiles["bytes"] > 0) & (at + tiles["bytes"] <= file_bytes)).all():
            placed = np.zeros(len(tiles), np.dtype([("tile", _TILE), ("at", "<i8")]))
            placed["tile"], placed["at"] = tiles, at
            return placed
    raise ValueError("tiles of its index lie outside of it")


def _levels(path: Path, header: np.void, placed: NDArray[np.void]) -> list[TiledLevel]:
    """From the finest on. Raises ValueError."""
    tiles, tile_px = placed["tile"], int(header["tile_px"])
    if not (np.isfinite(tiles["scale"]) & (tiles["scale"] > 0)).all():
        raise ValueError("tiles of its index have no scale")
    with path.open("rb") as file:
        file.seek(int(placed["at"][0]))
        if file.read(2) != _JPEG_START:
            raise ValueError("its first tile is no JPEG where it should begin")
    if (tiles["bytes"] > 6 * tile_px * tile_px + (1 << 16)).any():
        raise ValueError("a tile claims more bytes than its pixels have")
    whole = (int(header["width"]), int(header["height"]))
    scales = np.unique(tiles["scale"])[::-1]
    levels = []
    for scale in scales[:32]:
        own = placed[tiles["scale"] == scale]
        downsample = float(scales[0] / scale)
        size_px = _size(own["tile"], whole, downsample)
        if is_level_of(size_px, whole):
            levels.append(_level(own, size_px, tile_px))
    if not levels or levels[0].size_px != whole:
        raise ValueError("its finest tiles are not those of the whole slide")
    return levels


def _size(tiles: NDArray[np.void], whole: tuple[int, int], downsample: float) -> tuple[int, int]:
    """Of a level: as far as its tiles reach, where these are all there."""
    sides = []
    for corner, side, size in (("x", "width", whole[0]), ("y", "height", whole[1])):
        reached, expected = int((tiles[corner] + tiles[side]).max()), size / downsample
        sides.append(reached if abs(reached - expected) <= 1 else max(1, round(expected)))
    return sides[0], sides[1]


def _level(placed: NDArray[np.void], size_px: tuple[int, int], tile_px: int) -> TiledLevel:
    tiles = placed["tile"]
    columns, rows = (-(-side // tile_px) for side in size_px)
    if (tiles["x"] % tile_px).any() or (tiles["y"] % tile_px).any():
        raise ValueError("its tiles lie on no grid")
    column, row = tiles["x"] // tile_px, tiles["y"] // tile_px
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    if not inside.all():
        raise ValueError("tiles lie outside of the slide")
    if columns * rows > MAX_TILES:
        raise ValueError(f"it claims {columns * rows} tiles")
    offsets, byte_counts = (np.zeros(columns * rows, np.int64) for _ in range(2))
    numbers = row.astype(np.int64) * columns + column
    offsets[numbers], byte_counts[numbers] = placed["at"], tiles["bytes"]
    return TiledLevel(
        size_px,
        (tile_px, tile_px),
        offsets,
        byte_counts,
        JpegTiles(ycbcr=True, tables=b""),
        clipped=True,
    )
