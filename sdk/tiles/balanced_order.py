"""An order of a slide's tiles whose every beginning covers the tissue evenly.

The spatially balanced sample of D. Stevens and A. Olsen ("Spatially Balanced Sampling of Natural
Resources", Journal of the American Statistical Association 99, 2004), of blocks instead of points:
blocks of neighbouring tiles lie on a curve through the tissue and are visited in the order of their
reversed places on it. Neighbours in a block come one after another, so what was read and decoded
for one serves the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathgene_rt.geometry import Int64Array

BLOCK_TILES = 2
"""Tiles along a block's side. Neighbours resemble each other, so that few large blocks say less of
a slide than many small ones of as many tiles."""


@dataclass(frozen=True)
class BalancedOrder:
    """``rows`` int64 [N]: the tile to take at each position. ``block`` int64 [N]: for each tile the
    number of its block, counted in the order in which blocks are visited.
    """

    rows: Int64Array
    block: Int64Array


def balanced_order(coords: Int64Array) -> BalancedOrder:
    """The order of tiles at ``coords`` int64 [N, 2] (column, row), the same each time."""
    curve = _curve_places(block_cells(coords))
    places, on_curve = np.unique(curve, return_inverse=True)
    block = _visits(len(places))[on_curve]
    return BalancedOrder(np.argsort(block, kind="stable"), block)


def block_cells(coords: Int64Array) -> Int64Array:
    """The block (column, row) int64 [N, 2] of each tile; blocks count from the grid's origin."""
    return coords // BLOCK_TILES


def _curve_places(cells: Int64Array) -> Int64Array:
    """Places int64 [N] on the curve of G. Morton through ``cells``: bits of column and row take
    turns."""
    cells = cells - cells.min(axis=0, initial=0)
    places = np.zeros(len(cells), dtype=np.int64)
    for bit in range(int(cells.max(initial=0)).bit_length()):
        for axis in (0, 1):
            places |= ((cells[:, axis] >> bit) & 1) << (2 * bit + axis)
    return places


def _visits(count: int) -> Int64Array:
    """For each of ``count`` places on the curve, when it is visited, int64 [count].

    The sequence of J. van der Corput (1935) in base 2: each beginning of it is spread evenly.
    """
    bits = max(count - 1, 0).bit_length()
    visited = np.zeros(1 << bits, dtype=np.int64)
    for bit in range(bits):
        visited |= ((np.arange(1 << bits) >> bit) & 1) << (bits - 1 - bit)
    visited = visited[visited < count]
    when = np.empty(count, dtype=np.int64)
    when[visited] = np.arange(count)
    return when
