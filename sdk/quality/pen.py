"""Tiles with pen marks on them.

Tissue detection leaves marks out as far as its overview shows them; coordinates of others may not,
and the edge of a mark may lie in a tile that is mostly tissue.
"""

from __future__ import annotations

from typing import ClassVar

from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.squares import share
from pathgene_rt.tiles.tissue_colour import Colours, may_be_ink

PEN_SHARE = 0.1
"""Of a tile's area. Single pixels of nuclei and of pigment may have the colours of ink: means over
squares (8 um, as in the overview on which tissue is found) are looked at."""

SUSPECT_SHARE = PEN_SHARE / 2
"""Of single pixels: where fewer may be ink, no means are taken. That is nearly every tile."""


class PenTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`.

    By the rule of :mod:`~pathgene_rt.tiles.tissue_colour`, without white balance: what white is on
    a slide that is pushed is known only at its end.
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
        return share(Colours.of(squares.means).ink) if squares.means.size else 0.0
