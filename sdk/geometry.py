"""Slides, grids and tiles as plain values. Lengths carry their unit in the name.

Coordinates are level-0 pixels, top-left origin, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    ``mpp`` is micrometres per level-0 pixel (mean of x and y), None where the file does not say.
    ``downsamples[k]`` is level-0 pixels per pixel of level k; ``downsamples[0] == 1``.
    ``bounds_xy_px`` is where the scanned part of the canvas begins, if the file says (MRXS): our
    coordinates count from the canvas, those of viewers such as QuPath from there.
    """

    slide_id: str
    size_px: tuple[int, int]
    mpp: float | None
    downsamples: tuple[float, ...]
    vendor: str
    bounds_xy_px: tuple[int, int] = (0, 0)


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
    """(column, row) in tiles, int64 [N, 2], of level-0 corners ``xy`` spaced ``span_px`` apart."""
    return np.rint(np.asarray(xy, dtype=np.float64) / span_px).astype(np.int64)


def grid_edges(coords: Int64Array) -> Int64Array:
    """Directed edges int64 [2, E] between each tile and its up to 8 neighbours on the grid.

    ``coords`` int64 [N, 2] are (column, row). O(N log N) and without loops over tiles: one sorted
    key a tile, one binary search a direction. Isolated tiles get no edge.
    """
    if coords.shape[0] == 0:
        return np.zeros((2, 0), dtype=np.int64)
    shifted = coords - coords.min(axis=0) + 1
    width = int(shifted[:, 0].max()) + 2
    keys = shifted[:, 1] * width + shifted[:, 0]
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    sources, targets = [], []
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            if row == 0 and column == 0:
                continue
            wanted = keys + row * width + column
            place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
            found = ordered[place] == wanted
            sources.append(np.flatnonzero(found))
            targets.append(order[place[found]])
    return np.stack([np.concatenate(sources), np.concatenate(targets)]).astype(np.int64)
