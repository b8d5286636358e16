"""The rows of a bag whose tiles are not known beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array
from pathgene_rt.scan.assembler import TileIndex


class PushedBag:
    """Features of tiles in the order in which they were sent to the encoder. Thread-safe.

    ``usable`` says which of the tiles in rows int64 [k] interim predictions may see, bool [k].
    """

    def __init__(self, feature_dim: int, usable: Callable[[Int64Array], BoolArray]) -> None:
        self._usable = usable
        self._lock = threading.Lock()
        self._places: list[TileIndex] = []
        self._row_of: dict[TileIndex, int] = {}
        self._bag = GrowingBag(
            feature_dim, tile_name=lambda row: f"the tile in column, row {self._places[row]}"
        )
        self._reported = self._bag.done.copy()

    @property
    def sent(self) -> int:
        """Tiles that were sent to the encoder."""
        return len(self._places)

    @property
    def encoded(self) -> int:
        """Tiles whose features have come."""
        return self._bag.encoded

    def __contains__(self, place: TileIndex) -> bool:
        return place in self._row_of

    def send(self, place: TileIndex) -> None:
        """The next tile of the stream is that at ``place``."""
        with self._lock:
            self._row_of[place] = self._bag.append()
            self._places.append(place)

    def add(self, first: int, count: int, features: Float32Array) -> None:
        """A :data:`~pathgene_rt.streaming.encoder_service.Sink`. Raises EngineError for features
        that are not finite.
        """
        with self._lock:
            self._bag.put(np.arange(first, first + count), features)

    def order_of(self, places: Sequence[TileIndex]) -> Int64Array:
        """As how-many-eth each of these tiles was sent, int64 [len(places)] from 0."""
        with self._lock:
            return np.array([self._row_of[place] for place in places], dtype=np.int64)

    def rows(self, places: Sequence[TileIndex]) -> Float32Array:
        """Features float32 [len(places), D] of tiles that were all encoded."""
        order = self.order_of(places)
        with self._lock:
            return self._bag.features[order]

    def clear(self) -> None:
        """Free the memory; nothing is asked for any more."""
        with self._lock:
            self._bag.clear()
            self._reported = self._bag.done.copy()

    def take_new(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """(rows int64 [n], (column, row) int64 [n, 2], features float32 [n, D]) of the usable tiles
        that were encoded since the last call.
        """
        with self._lock:
            new = self._bag.done.copy()
            new[: len(self._reported)] &= ~self._reported
            self._reported = self._bag.done.copy()
            rows = self._usable_of(new)
            return rows, self._places_of(rows), self._bag.features[rows]

    def reported(self) -> tuple[Int64Array, Float32Array]:
        """((column, row) int64 [n, 2], features float32 [n, D]) of all tiles that were news."""
        with self._lock:
            rows = self._usable_of(self._reported)
            return self._places_of(rows), self._bag.features[rows]

    def _usable_of(self, tiles: BoolArray) -> Int64Array:
        rows = np.flatnonzero(tiles)
        usable: Int64Array = rows[self._usable(rows)]
        return usable

    def _places_of(self, rows: Int64Array) -> Int64Array:
        return np.array([self._places[row] for row in rows], dtype=np.int64).reshape(-1, 2)
