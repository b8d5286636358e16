"""Tiles with pen marks on them.

Tissue detection leaves marks out as far as its overview shows them; coordinates of others may not,
and the edge of a mark may lie in a tile that is mostly tissue.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.tiles.tissue_colour import Colours, may_be_ink

PEN_SHARE = 0.1
"""Of a tile's area."""

SAMPLED_UM, SQUARE_SAMPLES = 2.0, 4
"""Single pixels of nuclei and of pigment may have the colours of ink: means over squares (8 um, as
in the overview on which tissue is found) of some of the pixels are looked at."""

SUSPECT_SHARE = PEN_SHARE / 2
"""Of single pixels, one in each square: where fewer may be ink, no means are taken. That is nearly
every tile, and costs a twentieth of decoding one."""


class PenTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`.

    By the rule of :mod:`~pathgene_rt.tiles.tissue_colour`, without white balance: what white is on
    a slide that is pushed is known only at its end.
    """

    name: ClassVar[str] = "pen"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._step = max(1, round(SAMPLED_UM / slide.mpp))

    def flags(self, tile: CheckedTile) -> bool:
        """Whether at least PEN_SHARE of ``tile`` has the colours of ink."""
        return self.share(tile.rgb) >= PEN_SHARE

    def share(self, rgb: UInt8Array) -> float:
        """The share 0..1 of ``rgb`` uint8 [h, w, 3] that has the colours of ink; 0 where it is too
        small to be told from single pixels.
        """
        apart = self._step * SQUARE_SAMPLES
        if may_be_ink(rgb[::apart, ::apart]).mean() < SUSPECT_SHARE:
            return 0.0
        samples = np.ascontiguousarray(rgb[:: self._step, :: self._step])
        means = np.asarray(Image.fromarray(samples).reduce(SQUARE_SAMPLES))
        return float(Colours.of(means).ink.mean())
