"""The rows of a bag whose tiles are not known beforehand."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from pathgene_rt.errors import EngineError
from pathgene_rt.features.bag import first_not_finite
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array
from pathgene_rt.scan.assembler import TileIndex

_FIRST_ROWS = 1024


class PushedBag:
    """Features of tiles in the order in which they were sent to the encoder. Thread-safe.

    Memory: 4*D bytes a tile, up to twice that while it grows.
    """

    def __init__(self, feature_dim: int) -> None:
        self._lock = threading.Lock()
        self._places: list[TileIndex] = []
        self._row_of: dict[TileIndex, int] = {}
        self._features: Float32Array = np.empty((_FIRST_ROWS, feature_dim), dtype=np.float32)
        self._done: BoolArray = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self._reported: BoolArray = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self._encoded = 0

    @property
    def sent(self) -> int:
        """Tiles that were sent to the encoder."""
        return len(self._places)

    @property
    def encoded(self) -> int:
        """Tiles whose features have come."""
        return self._encoded

    def __contains__(self, place: TileIndex) -> bool:
        return place in self._row_of

    def send(self, place: TileIndex) -> None:
        """The next tile of the stream is that at ``place``."""
        with self._lock:
            self._row_of[place] = len(self._places)
            self._places.append(place)
            if len(self._places) > len(self._done):
                self._features = np.concatenate([self._features, np.empty_like(self._features)])
                self._done = np.concatenate([self._done, np.zeros_like(self._done)])
                self._reported = np.concatenate([self._reported, np.zeros_like(self._reported)])

    def add(self, first: int, count: int, features: Float32Array) -> None:
        """A :data:`~pathgene_rt.streaming.encoder_service.Sink`. Raises EngineError for features
        that are not finite.
        """
        bad = first_not_finite(features)
        with self._lock:
            if bad is not None:
                raise EngineError(
                    f"the encoder gave NaN or infinity for the tile in column, row "
                    f"{self._places[first + bad]}; try --precision float32 and pathgene-rt verify"
                )
            self._features[first : first + count] = features
            self._done[first : first + count] = True
            self._encoded += count

    def rows(self, places: Sequence[TileIndex]) -> Float32Array:
        """Features float32 [len(places), D] of tiles that were all encoded."""
        with self._lock:
            return self._features[[self._row_of[place] for place in places]]

    def clear(self) -> None:
        """Free the memory; nothing is asked for any more."""
        with self._lock:
            self._features = self._features[:0].copy()
            self._done, self._reported = self._done[:0], self._reported[:0]

    def take_new(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """(rows int64 [n], (column, row) int64 [n, 2], features float32 [n, D]) of the tiles that
        were encoded since the last call.
        """
        with self._lock:
            rows = np.flatnonzero(self._done & ~self._reported)
            self._reported[rows] = True
            return rows, self._places_of(rows), self._features[rows]

    def reported(self) -> tuple[Int64Array, Float32Array]:
        """((column, row) int64 [n, 2], features float32 [n, D]) of all tiles that were news."""
        with self._lock:
            rows = np.flatnonzero(self._reported)
            return self._places_of(rows), self._features[rows]

    def _places_of(self, rows: Int64Array) -> Int64Array:
        return np.array([self._places[row] for row in rows], dtype=np.int64).reshape(-1, 2)
