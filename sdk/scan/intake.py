"""From pushed pixels to tiles as the encoder takes them, and the overview that tells tissue."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.scan.assembler import TileAssembler, TileIndex, WholeTile
from pathgene_rt.scan.deferred_tiles import DeferredTiles
from pathgene_rt.scan.mosaic import OverviewMosaic
from pathgene_rt.scan.tissue_guess import Guess, TissueGuess
from pathgene_rt.tiles.grid import reduced_tile

Tile = tuple[TileIndex, UInt8Array]
"""A tile uint8 [tile_px, tile_px, 3] and where on the grid it lies."""


class TileIntake:
    """Tiles of one slide that is pushed. Thread-safe.

    Whole tiles that look like tissue are handed out at once. The others are deferred, in
    ``deferred_bytes``, until :meth:`take` asks for them; those that may be tissue are for an
    encoder that has nothing better to do (:meth:`maybe`), those that find no room are handed out at
    once.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        span_px: int,
        overview_factor: int,
        size_px: tuple[int, int] | None,
        background: tuple[int, int, int],
        tissue: TissueOptions,
        *,
        partial_bytes: int,
        deferred_bytes: int,
    ) -> None:
        """A tile spans ``span_px`` pushed pixels, a pixel of the overview ``overview_factor``."""
        self._tile_px, self._reduction = preprocess.tile_px, preprocess.reduction
        self._span = span_px
        self._background = background
        self.assembler = TileAssembler(span_px, size_px, background, partial_bytes)
        self._mosaic = OverviewMosaic(overview_factor, background, size_px)
        self._guess = TissueGuess(tissue)
        self.deferred = DeferredTiles(self._tile_px, deferred_bytes)
        self._maybe: deque[TileIndex] = deque()

    def push(self, rgb: UInt8Array, x: int, y: int) -> Iterator[Tile]:
        """The tiles worth encoding of those that ``rgb`` uint8 [h, w, 3] at (``x``, ``y``) makes
        whole. To be used up, as :meth:`TileAssembler.push`. Raises ScanMemoryError.
        """
        return self._worth_encoding(self.assembler.push(rgb, x, y))

    def rest(self, size_px: tuple[int, int]) -> Iterator[Tile]:
        """Likewise of the tiles that did not become whole, on a slide of ``size_px``."""
        return self._worth_encoding(self.assembler.rest(size_px))

    def overview(self, size_px: tuple[int, int]) -> UInt8Array:
        """The overview uint8 [h, w, 3] of what was pushed, on a slide of ``size_px``."""
        return self._mosaic.picture(size_px)

    def take(self, place: TileIndex) -> UInt8Array:
        """The tile that was deferred, once; background where none was."""
        tile = self.deferred.take(place)
        if tile is None:
            tile = np.empty((self._tile_px, self._tile_px, 3), dtype=np.uint8)
            tile[:] = self._background
        return tile

    def maybe(self) -> TileIndex | None:
        """A tile that was deferred and may be tissue, if there is one that was not given yet."""
        return self._maybe.popleft() if self._maybe else None

    def clear(self) -> None:
        """Free the memory; nothing is asked for any more."""
        self.assembler.clear()
        self._mosaic.clear()
        self.deferred.clear()

    def _worth_encoding(self, tiles: Iterator[WholeTile]) -> Iterator[Tile]:
        for tile in tiles:
            column, row = tile.place
            rgb = reduced_tile(tile.rgb, self._tile_px, self._reduction)
            means = self._mosaic.add(tile.inside, column * self._span, row * self._span)
            guess = self._guess.judge(means)
            if guess is Guess.TISSUE or not self.deferred.put(tile.place, rgb):
                yield tile.place, rgb
            elif guess is Guess.MAYBE:
                self._maybe.append(tile.place)
