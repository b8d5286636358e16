"""Square regions of the tile grid, formed in the graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

REGION = 16
"""Tiles along a region's side: 4096 px of 256 px tiles, as in HIPT."""

CELLS = REGION * REGION

_PLACES = 256 * 256
"""Regions that the box around all occupied ones may hold, 16 million tiles. The largest slide
(75 mm x 25 mm, tiles of 256 px at 0.25 um) has 1,850, and a case pools many slides."""


class Regions(NamedTuple):
    """The occupied regions of a bag of n tiles.

    ``tiles`` int64 [regions, 256] are the tiles by their places in the region, row by row, n where
    there is none. ``place`` int64 [n] is where in ``tiles``, flattened, each tile is.
    """

    tiles: Tensor
    place: Tensor


def form_regions(coords: Tensor) -> Regions:
    """Cut the grid of tiles at ``coords`` int64 [n, 2] (column, row) into squares of 16 x 16.

    Squares begin at column 0 and row 0, wherever the tissue begins, and those without a tile are
    left out. Memory is 256 numbers a region, however far apart regions lie. Raises ValueError (not
    while being exported) if ``coords`` are no grid: farther apart than any slide, or two tiles in
    one place.
    """
    checked = not torch.compiler.is_compiling()
    if checked:
        _check_places(coords)
    n = coords.shape[0]
    region = coords // REGION
    region = region - region.amin(dim=0)
    inside = coords % REGION
    columns = region.amax(dim=0)[0] + 1
    number = region[:, 1] * columns + region[:, 0]

    occupied = (
        torch.zeros(_PLACES, device=coords.device).scatter_add(
            0, number, torch.ones_like(number, dtype=torch.float32)
        )
        > 0
    )
    # In float32, which every engine can sum up; whole numbers of this size are exact.
    rank = occupied.to(torch.float32).cumsum(0).to(torch.int64) - 1
    count = occupied.nonzero().shape[0]
    place = rank.index_select(0, number) * CELLS + inside[:, 1] * REGION + inside[:, 0]
    tiles = torch.full((count * CELLS,), n, device=coords.device)
    tiles = tiles.scatter(0, place, torch.arange(n, device=coords.device)).reshape(-1, CELLS)
    if checked and int((tiles < n).sum()) < n:
        raise ValueError(
            "coords place two tiles at the same column and row; each tile needs a place of its own"
        )
    return Regions(tiles, place)


def _check_places(coords: Tensor) -> None:
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype != torch.int64:
        raise ValueError(
            f"coords are {coords.dtype} {list(coords.shape)}, hipt takes int64 [n, 2] (column, row)"
        )
    region = coords // REGION
    columns, rows = (region.amax(dim=0) - region.amin(dim=0) + 1).tolist()
    if columns * rows > _PLACES:
        raise ValueError(
            f"the tiles spread over {columns} x {rows} regions of 16 x 16 tiles, more than "
            f"{_PLACES}; coords are columns and rows of tiles, not pixels"
        )
