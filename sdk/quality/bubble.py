"""Tiles with the wall of an air bubble or the edge of a coverslip on them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pathgene_rt.quality.check import CheckedSlide, CheckedTile

BUBBLE_SHARE = 0.02
"""Of a tile's area: a wall is narrow. Of clean tissue at most 0.008 was found."""

LIGHT, MOST_CHROMA, MOST_SPREAD = (60, 205), 25, 60
"""Of 255: neither glass nor black, without stain, and without the structure of tissue, which is
grey only where nuclei and gaps are averaged."""


class BubbleTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`.

    Where light is refracted away, all colours become dark alike: squares of 8 um that are dark,
    grey and smooth.
    """

    name: ClassVar[str] = "bubble"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._mpp = slide.mpp

    def flags(self, tile: CheckedTile) -> bool:
        """Whether at least BUBBLE_SHARE of ``tile`` is dark, grey and smooth."""
        return self.share(tile) >= BUBBLE_SHARE

    def share(self, tile: CheckedTile) -> float:
        """The share 0..1 of the tile's squares that are dark, grey and smooth."""
        squares = tile.squares(self._mpp)
        found = (squares.light > LIGHT[0]) & (squares.light < LIGHT[1])
        found &= (squares.chroma < MOST_CHROMA) & (squares.spread < MOST_SPREAD)
        return float(np.count_nonzero(found)) / max(1, found.size)
