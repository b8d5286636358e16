"""Tiles that look like glass, kept until the tissue of the whole slide is known."""

from __future__ import annotations

import threading
import zlib

import numpy as np

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.scan.assembler import TileIndex


class DeferredTiles:
    """Tiles uint8 [tile_px, tile_px, 3] in at most ``limit_bytes``, without loss. Thread-safe.

    Glass takes about a third of its size: its bytes differ little, so that their frequencies alone
    (Huffman's code without a search for repetitions) save nearly what zlib can, in half the time.
    """

    def __init__(self, tile_px: int, limit_bytes: int) -> None:
        self._shape = (tile_px, tile_px, 3)
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._tiles: dict[TileIndex, bytes] = {}

    def __len__(self) -> int:
        return len(self._tiles)

    def put(self, place: TileIndex, rgb: UInt8Array) -> bool:
        """Keep a tile; False if there is no room for it."""
        if self._bytes >= self._limit:
            return False
        data = _packed(rgb)
        with self._lock:
            if self._bytes + len(data) > self._limit:
                return False
            self._bytes += len(data)
            self._tiles[place] = data
            return True

    def take(self, place: TileIndex) -> UInt8Array | None:
        """The tile, which is kept no longer; None if it is not here."""
        with self._lock:
            data = self._tiles.pop(place, None)
            if data is None:
                return None
            self._bytes -= len(data)
        return np.frombuffer(_unpacked(data, self._shape), dtype=np.uint8).reshape(self._shape)

    def clear(self) -> None:
        """Keep none of them."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


def _packed(rgb: UInt8Array) -> bytes:
    """Three bytes for a tile of one colour, else a zlib stream."""
    colour = bytes(rgb[0, 0])
    if (rgb[0] == rgb[0, 0]).all() and (rgb == rgb[0, 0]).all():
        return colour
    packer = zlib.compressobj(1, zlib.DEFLATED, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(rgb.tobytes()) + packer.flush()


def _unpacked(data: bytes, shape: tuple[int, int, int]) -> bytes:
    if len(data) == shape[2]:
        return data * (shape[0] * shape[1])
    return zlib.decompress(data)
