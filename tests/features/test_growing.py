"""Rows of a bag as they come: counted once, finite, in their places."""

from __future__ import annotations

import numpy as np
import pytest

from pathgene_rt.errors import EngineError
from pathgene_rt.features.growing import GrowingBag


def test_rows_come_in_any_order_and_count_once() -> None:
    bag = GrowingBag(3, 10)
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    for rows in ([7, 2, 9], [0, 1], [2, 3]):
        bag.put(np.array(rows), values[rows])
    assert (len(bag), bag.encoded, bag.is_whole) == (10, 6, False)
    assert np.flatnonzero(bag.done).tolist() == [0, 1, 2, 3, 7, 9]
    bag.put(np.array([4, 5, 6, 8]), values[[4, 5, 6, 8]])
    assert bag.is_whole
    np.testing.assert_array_equal(bag.features, values)


def test_it_grows_by_one_tile_after_the_other() -> None:
    bag = GrowingBag(2)
    values = np.arange(10_000, dtype=np.float32).reshape(5000, 2)
    for row in range(5000):
        assert bag.append() == row
        bag.put(np.array([row]), values[row : row + 1])
    assert bag.is_whole and bag.features.shape == (5000, 2)
    np.testing.assert_array_equal(bag.features, values)
    bag.clear()
    assert (len(bag), bag.encoded, bag.features.shape) == (0, 0, (0, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_its_tile_and_not_taken(value: float) -> None:
    bag = GrowingBag(2, 9, tile_name=lambda row: f"the tile called {row}")
    batch = np.ones((3, 2), np.float32)
    batch[1, 1] = value
    with pytest.raises(EngineError, match="NaN or infinity for the tile called 6; try"):
        bag.put(np.array([4, 6, 8]), batch)
    assert bag.encoded == 0 and not bag.done.any()
