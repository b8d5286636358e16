"""A slide in memory whose tiles are known, with damage, stalls and delays on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from pathgene_rt.errors import SlideReadError, TileDecodeError
from pathgene_rt.geometry import SlideInfo, TileGrid, UInt8Array
from pathgene_rt.slides import Overview
from pathgene_rt.slides.one_by_one import OneByOne
from pathgene_rt.slides.overview import read_overview
from tests.support import tiny_models as tiny

COLUMNS = 10


def grid_of(tiles: int) -> TileGrid:
    """``tiles`` tiny tiles in rows of COLUMNS."""
    numbers = np.arange(tiles)
    xy = np.stack([numbers % COLUMNS, numbers // COLUMNS], axis=1) * tiny.TILE_PX
    shares = np.ones(tiles, np.float32)
    return TileGrid(
        tiny.TILE_PX, 0.5, 0, tiny.TILE_PX, float(tiny.TILE_PX), xy.astype(np.int32), shares
    )


def colour(number: int) -> np.ndarray:
    """What tile ``number`` is painted with."""
    return np.array([number % 256, number // 256 % 256, 77], np.uint8)


class ScriptedSlide(OneByOne):
    """Each tile has its colour. ``before`` is called with a tile's number before it is read."""

    reader = "scripted"

    def __init__(
        self, tiles: int, damaged: frozenset[int] = frozenset(), before: Callable[[int], None] = id
    ) -> None:
        rows = -(-tiles // COLUMNS)
        size_px = (COLUMNS * tiny.TILE_PX, rows * tiny.TILE_PX)
        self.info = SlideInfo("scripted", size_px, 0.5, (1.0,), "test")
        self.closed = threading.Event()
        self._damaged = damaged
        self._before = before

    def read(self, xy_px, level, size_px, out=None, *, shrink=1, approximate=False) -> UInt8Array:
        number = xy_px[1] // tiny.TILE_PX * COLUMNS + xy_px[0] // tiny.TILE_PX
        self._before(number)
        if self.closed.is_set():
            raise SlideReadError("scripted: closed")
        if number in self._damaged:
            raise TileDecodeError(f"scripted: tile {number} is damaged")
        if out is None:
            out = np.empty((size_px[1], size_px[0], 3), np.uint8)
        out[:] = colour(number)
        return out

    def encoding_signature(self, level: int) -> str:
        return ""

    def encoded_source(self, level: int) -> None:
        return None

    def overview(self, mpp: float) -> Overview:
        return read_overview(self, mpp)

    def close(self) -> None:
        self.closed.set()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Stall:
    """Blocks the reads of some tiles until released."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = frozenset(numbers)
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self, number: int) -> None:
        if number in self._numbers:
            self.reached.set()
            assert self.released.wait(30)


def slow(seconds: float) -> Callable[[int], None]:
    """Every read takes this long."""
    return lambda _: time.sleep(seconds)
