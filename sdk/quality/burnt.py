"""Tiles that are burnt (by cautery, or at the edge of a laser's cut) or black."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pathgene_rt.quality.check import CheckedSlide, CheckedTile

BURNT_SHARE = 0.1
"""Of a tile's area. Of clean tissue, dark keratin, at most 0.07 was found."""

MOST_LIGHT, MOST_CHROMA = 90, 40
"""Of 255. Dense hematoxylin is as dark, but has more colour."""


class BurntTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`: squares of 8 um that are nearly black."""

    name: ClassVar[str] = "burnt"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._mpp = slide.mpp

    def flags(self, tile: CheckedTile) -> bool:
        """Whether at least BURNT_SHARE of ``tile`` is nearly black."""
        return self.share(tile) >= BURNT_SHARE

    def share(self, tile: CheckedTile) -> float:
        """The share 0..1 of the tile's squares that are nearly black."""
        squares = tile.squares(self._mpp)
        found = (squares.light < MOST_LIGHT) & (squares.chroma < MOST_CHROMA)
        return float(np.count_nonzero(found)) / max(1, found.size)
