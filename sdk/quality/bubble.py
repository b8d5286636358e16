"""Tiles with the wall of an air bubble or the edge of a coverslip on them."""

from __future__ import annotations

from typing import ClassVar

from pathgene_rt.geometry import BoolArray, Float32Array, UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.squares import share

BUBBLE_SHARE = 0.02
"""Of a tile's area: a wall is narrow. Of clean tissue at most 0.008 was found."""

SUSPECT_SHARE = 0.025
"""Of single pixels: where fewer are dark and grey, squares are not looked at. Of clean tissue at
most 0.044 was found and mostly under 0.012, with the edge of a coverslip at least 0.052."""

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
        """The share 0..1 of the tile's squares that are dark, grey and smooth; 0 where too few of
        its pixels are dark and grey.
        """
        squares = tile.squares(self._mpp)
        pixels = squares.pixels
        if share(_dark_grey(pixels.light, pixels.chroma)) < SUSPECT_SHARE:
            return 0.0
        return share(_dark_grey(squares.light, squares.chroma) & (squares.spread < MOST_SPREAD))


def _dark_grey(light: UInt8Array | Float32Array, chroma: UInt8Array | Float32Array) -> BoolArray:
    found: BoolArray = (light > LIGHT[0]) & (light < LIGHT[1]) & (chroma < MOST_CHROMA)
    return found
