"""Places of tiles and the neighbour graph that graph heads get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.errors import EngineError
from pathgene_rt.features import FeatureBag
from pathgene_rt.geometry import grid_coords, grid_edges
from pathgene_rt.heads import HeadInputs

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
    assert inputs["features"].shape == (3, 4)


def test_an_empty_bag_is_an_error_not_nan() -> None:
    with pytest.raises(EngineError, match="empty"):
        HeadInputs(bag(0))
