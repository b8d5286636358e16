"""Tiles with a fold of the tissue on them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pathgene_rt.geometry import BoolArray, Float32Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.squares import DENSITY

FOLD_SHARE = 0.1
"""Of a tile's area, which must be as dense as a fold."""

HEMATOXYLIN_RED = 0.8
"""Of the optical density for red light, which is hematoxylin's nearly alone, how much of that for
green is hematoxylin's: 0.9 by Ruifrok's and Johnston's vectors, less by those of bluish slides."""

SPREADS, MEDIANS, LEAST_MORE = 2.2, 0.1, 0.02
"""How far a fold lies above the slide's median: so many interquartile ranges, and, for slides whose
tiles are all alike, so much of the median and of density. At most 0.4 % of clean slides' tiles
do."""

LEAST_TILES = 30
"""Of fewer no median is taken, and none is flagged."""


class FoldTiles:
    """A :class:`~pathgene_rt.quality.check.ComparingCheck`.

    Two layers absorb twice. How much one does is for the slide to say: folds are dense in eosin,
    which is in all tissue, beside the slide's other tiles.
    """

    name: ClassVar[str] = "fold"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._mpp = slide.mpp

    def measure(self, tile: CheckedTile) -> float:
        """The density of eosin that FOLD_SHARE of the tile's squares of 8 um have or exceed; NaN
        for a tile smaller than one, and for one without pixels."""
        means = tile.squares(self._mpp).means
        if not means.size or tile.error is not None:
            return float("nan")
        red, green = DENSITY[means[..., 0]], DENSITY[means[..., 1]]
        eosin = (green - HEMATOXYLIN_RED * red).ravel()
        at = int((1 - FOLD_SHARE) * (eosin.size - 1))
        return max(0.0, float(np.partition(eosin, at)[at]))

    def flags(self, measures: Float32Array, slide: Float32Array) -> BoolArray:
        """Which of ``measures`` are of folds, beside those of ``slide``; none beside fewer than
        LEAST_TILES."""
        if len(slide) < LEAST_TILES:
            return np.zeros(len(measures), dtype=np.bool_)
        return np.asarray(measures >= self.limit(slide))

    @staticmethod
    def limit(slide: Float32Array) -> float:
        """From which density on a tile is folded, on a slide whose tiles have ``slide``."""
        low, median, high = np.percentile(slide, (25, 50, 75))
        return float(median + SPREADS * (high - low) + MEDIANS * median + LEAST_MORE)
