"""The order of tiles whose every beginning covers the tissue evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.geometry import Int64Array
from pathgene_rt.tiles.balanced_order import BLOCK_TILES, balanced_order, block_cells


def square(side: int) -> Int64Array:
    place = np.arange(side * side, dtype=np.int64)
    return np.stack([place % side, place // side], axis=1)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=200, unique=True),
)
def test_every_tile_once_and_blocks_together(places: list[tuple[int, int]]) -> None:
    coords = np.array(places, dtype=np.int64).reshape(-1, 2)
    order = balanced_order(coords)
    assert sorted(order.rows.tolist()) == list(range(len(coords)))
    visited = order.block[order.rows]
    assert (np.diff(visited) >= 0).all()
    cells = [tuple(cell) for cell in block_cells(coords).tolist()]
    assert len(set(zip(cells, order.block.tolist(), strict=True))) == len(set(cells))
    assert set(order.block.tolist()) == set(range(len(set(cells))))


def largest_gap(coords: Int64Array, taken: Int64Array) -> float:
    """How far a tile may be from the nearest that was taken, in tiles."""
    chosen = coords[taken]
    return max(float(np.sqrt(((chosen - tile) ** 2).sum(axis=1).min())) for tile in coords)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3, 0.6])
def test_any_beginning_is_spread_over_the_tissue(share: float) -> None:
    coords = square(64)
    tissue = coords[((coords - [20, 30]) ** 2).sum(axis=1) < 500]  # a disc off the centre
    for places in (coords, tissue):
        count = int(share * len(places))
        gap = largest_gap(places, balanced_order(places).rows[:count])
        # Of 2^k blocks one lies in each of 2^k equal pieces; between powers of two it may be half.
        piece = BLOCK_TILES / np.sqrt(share / 2)
        assert gap <= np.sqrt(2) * piece
        assert gap < largest_gap(places, np.arange(count))


def test_quadrants_are_served_alike() -> None:
    coords = square(64)
    rows = balanced_order(coords).rows
    for count in (64, 256, 500, 1500):
        quadrant = (coords[rows[:count]] >= 32) @ [1, 2]
        counts = np.bincount(quadrant, minlength=4)
        assert counts.max() - counts.min() <= 2 * BLOCK_TILES**2


def test_the_same_each_time_and_wherever_tiles_come_in_the_grid() -> None:
    coords = square(20)
    shuffled = np.random.default_rng(0).permutation(len(coords))
    places = coords[balanced_order(coords).rows]
    again = coords[shuffled][balanced_order(coords[shuffled]).rows]
    blocks = [block_cells(part).tolist() for part in (places, again)]
    assert blocks[0] == blocks[1]
