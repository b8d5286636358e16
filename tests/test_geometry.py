"""Places of tiles and the neighbour graph that graph heads get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt import geometry
from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import grid_coords, grid_edges, grid_neighbours, grid_regions
from pathgene_rt.heads.run import HeadInputs

places = st.sets(st.tuples(st.integers(-3, 8), st.integers(0, 8)), max_size=40)


@given(places)
def test_edges_join_exactly_the_eight_neighbours(chosen: set[tuple[int, int]]) -> None:
    coords = np.array(sorted(chosen), dtype=np.int64).reshape(-1, 2)
    expected = {
        (i, j)
        for i in range(len(coords))
        for j in range(len(coords))
        if i != j and np.abs(coords[i] - coords[j]).max() == 1
    }
    edges = grid_edges(coords)
    assert edges.dtype == np.int64 and edges.shape == (2, len(expected))
    assert set(zip(*edges.tolist(), strict=True)) == expected


@given(st.lists(st.tuples(st.integers(-3, 8), st.integers(0, 8)), min_size=1, max_size=40))
def test_table_and_binary_search_give_the_same_edges_in_the_same_order(
    chosen: list[tuple[int, int]],
) -> None:
    """Also of tiles that share a place, as tiles of an off-grid coordinates file may."""
    coords = np.array(chosen, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_CELLS_A_TILE", 1_000)
        by_table = grid_edges(coords)
        patch.setattr(geometry, "_CELLS_A_TILE", 0)
        by_search = grid_edges(coords)
    np.testing.assert_array_equal(by_table, by_search)


def test_edges_are_ordered_by_neighbour_then_source() -> None:
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert grid_edges(square).tolist() == [
        [3, 2, 3, 2, 1, 3, 0, 2, 1, 0, 1, 0],
        [0, 0, 1, 1, 0, 2, 1, 3, 2, 2, 3, 3],
    ]


def test_the_first_of_tiles_in_one_place_gets_the_messages_of_their_neighbours() -> None:
    edges = grid_edges(np.array([[0, 0], [1, 0], [1, 0]]))
    assert sorted(zip(*edges.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 0)]


def test_tiles_far_apart_take_no_table() -> None:
    """The table of this box would be 4 EiB."""
    far = np.array([[0, 0], [1, 1], [2**30, 2**30], [2**30 + 1, 2**30]])
    assert sorted(zip(*grid_edges(far).tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(-3, 40), st.integers(-3, 40)), min_size=1, max_size=60))
def test_neighbours_are_the_sources_of_edges_by_target(chosen: set[tuple[int, int]]) -> None:
    coords = np.array(sorted(chosen))
    table = grid_neighbours(coords)
    assert table.dtype == np.int64 and table.shape == (len(coords), 8)
    found = {(int(s), t) for t, row in enumerate(table) for s in row if s < len(coords)}
    assert found == set(zip(*grid_edges(coords).tolist(), strict=True))


def test_of_tiles_in_one_place_the_first_is_the_neighbour_of_all_around() -> None:
    table = grid_neighbours(np.array([[0, 0], [1, 0], [1, 0]]))
    assert [sorted(set(row)) for row in table.tolist()] == [[1, 3], [0, 3], [0, 3]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-40, 200), st.integers(-40, 200)),
        min_size=1,
        max_size=60,
        unique=True,
    )
)
def test_regions_hold_each_tile_at_its_place(corners: list[tuple[int, int]]) -> None:
    n, table = len(corners), grid_regions(np.array(corners))
    assert table.dtype == np.int64 and table.shape[1] == 256
    assert sorted(table[table < n].tolist()) == list(range(n))
    assert (table < n).any(axis=1).all()
    squares = []
    for region in table.tolist():
        here = [(cell, corners[tile]) for cell, tile in enumerate(region) if tile < n]
        assert len({(column // 16, row // 16) for _, (column, row) in here}) == 1
        assert all(cell == row % 16 * 16 + column % 16 for cell, (column, row) in here)
        squares.append((here[0][1][1] // 16, here[0][1][0] // 16))
    assert squares == sorted(squares)


def test_regions_far_apart_take_no_more_than_themselves() -> None:
    assert grid_regions(np.array([[0, 0], [2**30, 2**30], [17, 4000]])).shape == (3, 256)


def test_coords_of_a_grid_whose_step_is_no_whole_number() -> None:
    columns = np.arange(200)
    xy = np.rint(np.stack([columns * 257.03, columns * 0], axis=1)).astype(np.int32)
    np.testing.assert_array_equal(grid_coords(xy, 257.03)[:, 0], columns)


def bag(n: int) -> FeatureBag:
    xy = np.stack([np.arange(n) * 256, np.zeros(n)], axis=1).astype(np.int32)
    features = np.zeros((n, 4), np.float32)
    return FeatureBag("case", features, xy, 256, 0.5, 256.0, None)


def test_head_inputs_by_name() -> None:
    inputs = HeadInputs(bag(3))
    assert inputs["coords"].tolist() == [[0, 0], [1, 0], [2, 0]]
    assert sorted(zip(*inputs["edges"].tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert inputs["neighbours"].tolist()[0] == [3, 3, 3, 3, 1, 3, 3, 3]
    assert inputs["regions"].tolist() == [[0, 1, 2] + [3] * 253]
    assert inputs["features"].shape == (3, 4)


def test_an_empty_bag_is_an_error_not_nan() -> None:
    with pytest.raises(BagError, match="empty"):
        HeadInputs(bag(0))
