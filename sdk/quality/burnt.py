"""Tiles that are burnt (by cautery, or at the edge of a laser's cut) or black."""

from __future__ import annotations

from typing import ClassVar

from pathgene_rt.geometry import BoolArray, Float32Array, UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.squares import share

BURNT_SHARE = 0.1
"""Of a tile's area. Of clean tissue, dark keratin, at most 0.07 was found."""

SUSPECT_SHARE = 0.07
"""Of single pixels: where fewer are nearly black, squares are not looked at. Clean tissue has 0.024
in the median; no tile with a tenth of burnt squares had less than 0.14."""

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
        """The share 0..1 of the tile's squares that are nearly black; 0 where too few of its pixels
        are.
        """
        squares = tile.squares(self._mpp)
        pixels = squares.pixels
        if share(_black(pixels.light, pixels.chroma)) < SUSPECT_SHARE:
            return 0.0
        return share(_black(squares.light, squares.chroma))


def _black(light: UInt8Array | Float32Array, chroma: UInt8Array | Float32Array) -> BoolArray:
    found: BoolArray = (light < MOST_LIGHT) & (chroma < MOST_CHROMA)
    return found
