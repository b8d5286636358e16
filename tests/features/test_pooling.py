"""All tiles of a case in one bag: order, places that keep slides apart, and what cannot be one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.pooling import REGION_ROWS, pool_bags, stack_coords
from pathgene_rt.geometry import grid_edges

grids = st.lists(
    arrays(np.int64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(-5, 300)),
    min_size=1,
    max_size=4,
)


def bag(slide_id: str, corners: list[tuple[int, int]], span_px: float, **changes) -> FeatureBag:
    xy = np.array(corners, np.int32)
    given = {
        "features": np.arange(len(xy) * 4, dtype=np.float32).reshape(-1, 4),
        "encoder_sha256": "ab" * 32,
        **changes,
    }
    return FeatureBag(slide_id, xy=xy, tile_px=256, mpp=0.5, span_px=span_px, **given)


@given(grids)
def test_stacked_grids_keep_their_shape_and_stay_apart(parts: list[np.ndarray]) -> None:
    stacked = stack_coords(parts)
    placed = np.split(stacked, np.cumsum([len(part) for part in parts])[:-1])
    for before, after in zip(parts, placed, strict=True):
        moved = after - before
        assert (moved == moved[0]).all() and moved[0, 0] == 0
        assert moved[0, 1] % REGION_ROWS == 0
    for upper, lower in pairwise(placed):
        assert lower[:, 1].min() - upper[:, 1].max() > REGION_ROWS
    assert 0 <= placed[0][:, 1].min() < REGION_ROWS


@given(grids, st.sampled_from([2, 4, 8, 16, 32, 64]))
def test_no_region_holds_tiles_of_two_slides(parts: list[np.ndarray], side: int) -> None:
    """Whether regions are counted from row 0 or from the first tile."""
    stacked = stack_coords(parts)
    slide = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    for origin in (0, stacked.min(axis=0)):
        regions = (stacked - origin) // side
        owners: dict[tuple[int, int], int] = {}
        for region, owner in zip(map(tuple, regions.tolist()), slide.tolist(), strict=True):
            assert owners.setdefault(region, owner) == owner


@given(grids)
def test_edges_of_a_pooled_bag_are_those_of_its_slides(parts: list[np.ndarray]) -> None:
    expected, first = set(), 0
    for part in parts:
        expected |= {(first + a, first + b) for a, b in grid_edges(part).T.tolist()}
        first += len(part)
    assert set(map(tuple, grid_edges(stack_coords(parts)).T.tolist())) == expected


def test_slides_of_different_scale_pool_in_tiles() -> None:
    a = bag("a", [(0, 512), (512, 512)], 512.0)
    b = bag("b", [(256, 256)], 256.0)
    pooled = pool_bags("P1", [a, b])
    assert pooled.slide_id == "P1" and pooled.encoder_sha256 == "ab" * 32
    assert pooled.coords.tolist() == [[0, 1], [1, 1], [1, 129]]
    np.testing.assert_array_equal(pooled.features, np.concatenate([a.features, b.features]))


def test_one_slide_pools_to_itself() -> None:
    a = bag("a", [(0, 512), (512, 1024)], 512.0)
    pooled = pool_bags("P1", [a])
    np.testing.assert_array_equal(pooled.coords, a.coords)
    np.testing.assert_array_equal(pooled.features, a.features)


def test_bags_that_do_not_go_together() -> None:
    a = bag("a", [(0, 0)], 256.0)
    with pytest.raises(BagError, match="case P1 has no slide"):
        pool_bags("P1", [])
    with pytest.raises(BagError, match="features of b and a are of different encoders"):
        pool_bags("P1", [a, bag("b", [(0, 0)], 256.0, encoder_sha256="cd" * 32)])
    with pytest.raises(BagError, match="features of b and a are of different encoders"):
        pool_bags("P1", [a, bag("b", [(0, 0)], 256.0, features=np.zeros((1, 5), np.float32))])
