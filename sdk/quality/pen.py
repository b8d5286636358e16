"""Tiles with pen marks on them.

Tissue detection leaves marks out as far as its overview shows them; coordinates of others may not,
and the edge of a mark may lie in a tile that is mostly tissue.
"""

from __future__ import annotations

from typing import ClassVar

from pathgene_rt.geometry import BoolArray, UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.squares import DENSITY, share
from pathgene_rt.tiles.tissue_colour import Colours, may_be_ink

PEN_SHARE = 0.1
"""Of a tile's area. Single pixels of nuclei and of pigment may have the colours of ink: means over
squares (8 um, as in the overview on which tissue is found) are looked at."""

LEAST_RED = 0.06
"""Of the optical density for green light, that for red. Eosin itself absorbs 0.073 (A. Ruifrok and
D. Johnston, Anal. Quant. Cytol. Histol. 23:291, 2001), and scanners see 0.1 of much eosin and 0.2
of the little that is usual, as some hematoxylin is with it. Pink inks absorb less."""

MOST_DENSITY = 1.15
"""For green light: what transmits so little of it and still most of the red is thicker than a
section that is stained."""

SUSPECT_SHARE = PEN_SHARE / 2
"""Of single pixels: where fewer may be ink, no means are taken. That is nearly every tile."""


class PenTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`.

    By the rule of :mod:`~pathgene_rt.tiles.tissue_colour`, without white balance: what white is on
    a slide that is pushed is known only at its end. Vivid pink, which that rule takes for eosin, is
    ink where it does not absorb light as eosin does.
    """

    name: ClassVar[str] = "pen"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._mpp = slide.mpp

    def flags(self, tile: CheckedTile) -> bool:
        """Whether at least PEN_SHARE of ``tile`` has the colours of ink."""
        return self.share(tile) >= PEN_SHARE

    def share(self, tile: CheckedTile) -> float:
        """The share 0..1 of ``tile`` that has the colours of ink; 0 where it is too small to be
        told from single pixels.
        """
        squares = tile.squares(self._mpp)
        if share(may_be_ink(squares.pixels.rgb)) < SUSPECT_SHARE:
            return 0.0
        if not squares.means.size:
            return 0.0
        colours = Colours.of(squares.means)
        return share(colours.ink | (colours.eosin & ~_can_be_eosin(squares.means)))


def _can_be_eosin(rgb: UInt8Array) -> BoolArray:
    """Whether vivid pink of ``rgb`` uint8 [h, w, 3] absorbs red and green light as eosin does."""
    red, green = DENSITY[rgb[..., 0]], DENSITY[rgb[..., 1]]
    eosin: BoolArray = (red >= LEAST_RED * green) & (green <= MOST_DENSITY)
    return eosin
