"""Decoded encoded tiles that neighbouring reads share, each decoded by one thread only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from pathgene_rt.geometry import UInt8Array

Shape = tuple[int, int, int]


class DecodeCache:
    """The most recently used tiles, in at most ``limit_bytes`` plus one tile a thread.

    A thread that wants a tile which another is decoding waits for it. A tile of which every pixel
    was used once is dropped first, for in a grid whose tiles do not overlap nobody wants it again.
    Memory of dropped tiles is used again: fresh pages would cost half as much as decoding.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, KeptTile] = OrderedDict()
        self._free: list[UInt8Array] = []

    def acquire(
        self, key: Hashable, shape: Shape, wanted_px: int, decode: Callable[[UInt8Array], None]
    ) -> KeptTile:
        """The tile of ``key``; if it is not there, ``decode`` writes it into uint8 ``shape``.

        ``wanted_px`` of its pixels will be used in all. To be given back by :meth:`release`. Raises
        what ``decode`` raises; threads that waited for it then try it themselves.
        """
        while True:
            with self._lock:
                tile = self._kept.get(key)
                if tile is None:
                    mine = self._kept[key] = KeptTile(key, self._memory(shape), wanted_px)
                    mine.decoding.acquire()
                    break
                tile.users += 1
                self._kept.move_to_end(key)
            with tile.decoding:
                if not tile.failed:
                    return tile
        try:
            decode(mine.pixels)
        except BaseException:
            with self._lock:
                del self._kept[key]
                self._bytes -= mine.pixels.nbytes
            mine.failed = True
            raise
        finally:
            mine.decoding.release()
        return mine

    def release(self, tile: KeptTile, used_px: int) -> None:
        """Give back ``tile``, of which ``used_px`` pixels were used."""
        with self._lock:
            tile.users -= 1
            tile.wanted_px -= used_px
            if tile.wanted_px <= 0 and tile.users == 0:
                self._drop(tile)

    def _drop(self, tile: KeptTile) -> None:
        del self._kept[tile.key]
        self._free.append(tile.pixels)

    def _memory(self, shape: Shape) -> UInt8Array:
        """Memory of a dropped tile, else fresh; the oldest tiles are dropped for it."""
        height, width, channels = shape
        if not self._free and self._bytes + height * width * channels > self._limit_bytes:
            oldest = next((tile for tile in self._kept.values() if tile.users == 0), None)
            if oldest is not None:
                self._drop(oldest)
        while self._free:
            memory = self._free.pop()
            if memory.shape == shape:
                return memory
            self._bytes -= memory.nbytes
        memory = np.empty(shape, dtype=np.uint8)
        self._bytes += memory.nbytes
        return memory


class KeptTile:
    """A decoded tile: ``pixels`` uint8 [h, w, 3], not to be written to, valid until released.

    ``decoding`` is held until they are there or, ``failed``, never will be.
    """

    __slots__ = ("decoding", "failed", "key", "pixels", "users", "wanted_px")

    def __init__(self, key: Hashable, pixels: UInt8Array, wanted_px: int) -> None:
        self.key = key
        self.pixels = pixels
        self.wanted_px = wanted_px
        self.users = 1
        self.failed = False
        self.decoding = threading.Lock()
