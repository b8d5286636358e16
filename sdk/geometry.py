"""Slides, grids and tiles as plain values. Lengths carry their unit in the name.

Coordinates are level-0 pixels, top-left origin, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SlideInfo:
    """What a slide says of itself.

    ``mpp`` is micrometres per level-0 pixel (mean of x and y), None where the file does not say, or
    nothing that makes sense: ``scale_problem`` is what it says then.
    ``downsamples[k]`` is level-0 pixels per pixel of level k; ``downsamples[0] == 1``.
    ``bounds_xy_px`` is where the scanned part of the canvas begins, if the file says (MRXS): our
    coordinates count from the canvas, those of viewers such as QuPath from there. ``warnings`` are
    for reports: what about the file a reader of one should know.
    """

    slide_id: str
    size_px: tuple[int, int]
    mpp: float | None
    downsamples: tuple[float, ...]
    vendor: str
    bounds_xy_px: tuple[int, int] = (0, 0)
    warnings: tuple[str, ...] = ()
    scale_problem: str = ""


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one slide, in reading order (rows, then columns).

    ``mpp`` is the scale of the tiles as they are encoded. Each tile is ``span_px`` level-0 pixels
    wide; ``read_px`` pixels of ``level`` are read for it and reduced to ``tile_px``.
    ``xy`` int32 [N, 2] are the level-0 top-left corners, ``tissue`` float32 [N] the share of each
    tile that is tissue, in 0..1.
    """

    tile_px: int
    mpp: float
    level: int
    read_px: int
    span_px: float
    xy: Int32Array
    tissue: Float32Array

    def __len__(self) -> int:
        return int(self.xy.shape[0])

    @property
    def coords(self) -> Int64Array:
        """int64 [N, 2]: (column, row) of each tile in units of tiles."""
        return grid_coords(self.xy, self.span_px)


@dataclass(frozen=True)
class Tile:
    """One tile: level-0 corner ``xy`` and ``rgb`` uint8 [tile_px, tile_px, 3]."""

    xy: tuple[int, int]
    rgb: UInt8Array


def grid_coords(xy: Int32Array | Int64Array, span_px: float) -> Int64Array:
    """(column, row) in tiles, int64 [N, 2], of level-0 corners ``xy`` spaced ``span_px`` apart.

    Corners off that grid (coordinates of another tool, whose grids start at every contour) get the
    nearest column and row, so two tiles that overlap by more than half may get the same.
    """
    return np.rint(np.asarray(xy, dtype=np.float64) / span_px).astype(np.int64)


def grid_edges(coords: Int64Array) -> Int64Array:
    """Directed edges int64 [2, E] between each tile and its up to 8 neighbours on the grid.

    ``coords`` int64 [N, 2] are (column, row). Isolated tiles get no edge. Ordered by neighbour
    (row by row, from the upper left), then by source. Of tiles with the same column and row, the
    first alone is the target (row 1) of their neighbours' edges; they are not joined to each other.
    """
    found = _neighbours(coords)
    sources = [np.flatnonzero(targets >= 0) for targets in found]
    targets = [neighbours[chosen] for neighbours, chosen in zip(found, sources, strict=True)]
    return np.stack([np.concatenate(sources), np.concatenate(targets)]).astype(np.int64)


def grid_neighbours(coords: Int64Array) -> Int64Array:
    """int64 [N, 8]: the tiles around each on the grid, row by row from the upper left, and N where
    there is none.

    ``coords`` int64 [N, 2] are (column, row). Of tiles with the same column and row, the first is
    the neighbour of those around; they are not neighbours of each other.
    """
    table = np.stack(_neighbours(coords), axis=1).astype(np.int64)
    table[table < 0] = len(coords)
    return table


REGION = 16
"""Tiles along the side of a region: 4096 px of 256 px tiles, as in HIPT."""


def grid_regions(coords: Int64Array) -> Int64Array:
    """int64 [R, 256]: the tiles of each square of 16 x 16 places of the grid, row by row, and N
    where there is none.

    ``coords`` int64 [N, 2] are (column, row). Squares begin at column 0 and row 0, wherever the
    tissue begins; those without a tile are left out, however far apart the others lie. They come
    row by row. Of tiles with the same column and row, the last alone is there.
    """
    if coords.shape[0] == 0:
        return np.zeros((0, REGION * REGION), dtype=np.int64)
    region, inside = np.divmod(coords, REGION)
    region = region - region.min(axis=0)
    columns = int(region[:, 0].max()) + 1
    occupied, number = np.unique(region[:, 1] * columns + region[:, 0], return_inverse=True)
    table = np.full((len(occupied), REGION * REGION), len(coords), np.int64)
    table[number, inside[:, 1] * REGION + inside[:, 0]] = np.arange(len(coords))
    return table


def place_input(name: str, coords: Int64Array) -> Int64Array:
    """The input of a head called ``name`` that tells of the places of its tiles: "coords" int64
    [N, 2] (column, row) themselves, "neighbours", "regions", or "edges" of older bundles.

    Raises KeyError for another name.
    """
    made: Int64Array = _PLACE_INPUTS[name](coords)
    return np.ascontiguousarray(made)


def _as_they_are(coords: Int64Array) -> Int64Array:
    return coords


_PLACE_INPUTS: dict[str, Callable[[Int64Array], Int64Array]] = {
    "coords": _as_they_are,
    "neighbours": grid_neighbours,
    "regions": grid_regions,
    "edges": grid_edges,
}

PLACE_INPUTS = frozenset(_PLACE_INPUTS)
"""The names that :func:`place_input` takes."""


def _neighbours(coords: Int64Array) -> list[NDArray[np.integer[Any]]]:
    """Eight times int [N]: the tile beside each, row by row from the upper left, -1 for none.

    O(N), through a table of the tiles' bounding box, unless that box has more than _CELLS_A_TILE
    cells a tile (a handful of tiles far apart); then O(N log N), by binary search.
    """
    if coords.shape[0] == 0:
        return [np.zeros(0, dtype=np.int64)] * 8
    # A margin of one cell all around keeps the neighbours of one row's end out of the next row.
    shifted = coords - coords.min(axis=0) + 1
    width, height = (int(size) + 2 for size in shifted.max(axis=0))
    cells = shifted[:, 1] * width + shifted[:, 0]
    dense = width * height <= _CELLS_A_TILE * len(cells)
    find = _table_lookup(cells, width * height) if dense else _sorted_lookup(cells)
    return [
        find(cells + row * width + column)
        for row in (-1, 0, 1)
        for column in (-1, 0, 1)
        if (row, column) != (0, 0)
    ]


_CELLS_A_TILE = 64
"""256 bytes of table a tile: a twelfth of its features."""

_Lookup = Callable[[Int64Array], NDArray[np.integer[Any]]]
"""The first tile in each of the cells int64 [N], -1 where there is none."""


def _table_lookup(cells: Int64Array, count: int) -> _Lookup:
    """By a table of all ``count`` cells."""
    table = np.full(count, -1, dtype=np.int32)
    # Of assignments to one cell the last stays: backwards, so that it is the first tile's.
    table[cells[::-1]] = np.arange(len(cells) - 1, -1, -1, dtype=np.int32)
    return lambda wanted: table[wanted]


def _sorted_lookup(cells: Int64Array) -> _Lookup:
    """By binary search among the occupied cells."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]

    def find(wanted: Int64Array) -> Int64Array:
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[place] == wanted, order[place], -1)

    return find
