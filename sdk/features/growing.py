"""The rows of a bag on their way from the encoder: which are there, and that they are numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pathgene_rt.errors import EngineError
from pathgene_rt.features.bag import first_not_finite
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array

_LEAST_CAPACITY = 1024


class GrowingBag:
    """Features of the tiles of one slide, as they come, in any order. Not thread-safe.

    The number of tiles is known beforehand, or :meth:`append` adds one after the other; memory is
    then 4*D bytes a tile, up to twice that while it grows. ``tile_name`` says which tile a row is,
    for an error.
    """

    def __init__(
        self,
        feature_dim: int,
        tiles: int = 0,
        tile_name: Callable[[int], str] = "tile {}".format,
    ) -> None:
        self._features: Float32Array = np.empty((tiles, feature_dim), dtype=np.float32)
        self._done: BoolArray = np.zeros(tiles, dtype=np.bool_)
        self._tiles = tiles
        self._encoded = 0
        self._tile_name = tile_name

    def __len__(self) -> int:
        return self._tiles

    @property
    def features(self) -> Float32Array:
        """float32 [N, D], no copy; rows that are not :attr:`done` hold anything."""
        return self._features[: self._tiles]

    @property
    def done(self) -> BoolArray:
        """bool [N], no copy: the rows that are there."""
        return self._done[: self._tiles]

    @property
    def encoded(self) -> int:
        """How many rows are there."""
        return self._encoded

    @property
    def is_whole(self) -> bool:
        """Whether all rows are there."""
        return self._encoded == self._tiles

    def append(self) -> int:
        """One more tile; its row."""
        if self._tiles == len(self._done):
            more = max(_LEAST_CAPACITY, self._tiles)
            room = np.empty((more, self._features.shape[1]), dtype=np.float32)
            self._features = np.concatenate([self._features, room])
            self._done = np.concatenate([self._done, np.zeros(more, dtype=np.bool_)])
        self._tiles += 1
        return self._tiles - 1

    def put(self, rows: Int64Array, features: Float32Array) -> None:
        """``features`` float32 [k, D] of the tiles ``rows`` int64 [k] are there.

        Raises EngineError if they are not finite; then none is taken.
        """
        bad = first_not_finite(features)
        if bad is not None:
            raise EngineError(
                f"the encoder gave NaN or infinity for {self._tile_name(int(rows[bad]))}; try "
                "--precision float32 and pathgene-rt verify"
            )
        self._encoded += len(rows) - int(np.count_nonzero(self._done[rows]))
        self._features[rows] = features
        self._done[rows] = True

    def clear(self) -> None:
        """Free the memory: no tile is left."""
        self._features, self._done = self._features[:0].copy(), self._done[:0].copy()
        self._tiles = self._encoded = 0
