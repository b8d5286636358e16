"""What glass, tissue and ink look like: the rule for single pixels, of slides and of pushed tiles.

Tissue is what has colour. Chroma (largest minus smallest channel) is high for hematoxylin and eosin
alike, and near zero for glass, dust, shadows and air bubbles, whatever their brightness; unlike HSV
saturation it does not blow up in dark pixels. The threshold is Otsu's (IEEE Trans. SMC 9:62, 1979),
kept between fixed limits, because Otsu's method divides an empty slide or a slide full of tissue
too.

What white is and where the threshold lies depends on many pixels: both are worked out of counts, of
which a slide that is pushed has more with every tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathgene_rt.geometry import BoolArray, Int64Array, UInt8Array

CHROMA_LIMITS = (10, 30)
"""Of 255. Below the first lies the noise of JPEG and sensors, above the second pale stroma."""

GLASS_DARKEST, WHITE_PERCENT = 190, 90
"""Glass is brighter than the first in every channel; white is what so much of it stays below."""

PEN_HUES = (50, 167)
"""Of 256 (70 to 235 degrees): yellow-green to blue."""

BLUE_HUE, INK_SATURATION = 132, 140
"""From this hue on (186 degrees) hematoxylin may be it, as the counterstain of DAB or where there
is much of it; its saturation stays under the second, of 255, that of ink does not."""

PEN_CHROMA = 40
VIVID_SATURATION, VIVID_CHROMA = 190, 110
"""Of 255: purer than any stain or blood seen at this scale, so red and violet ink; but for"""

EOSIN_HUES = (213, 247)
"""(300 to 347 degrees), which overstained eosin has, and frozen sections: there no purity tells ink
from stain."""

BLACK_PEN_VALUE, BLACK_PEN_CHROMA = 80, 25
UNSCANNED_VALUE = 10
"""Of 255: what is darker still was not scanned, and is no mark."""

White = tuple[float, float, float]
"""The level 1..255 of each channel that is to become 255."""


@dataclass(frozen=True, eq=False)
class Colours:
    """Of white-balanced pixels: ``chroma`` uint8 [h, w]; ``cool`` bool [h, w], whether stains never
    have their colour; ``ink`` bool [h, w], whether a pen may have made them, and ``black`` those of
    them that have no colour; ``eosin`` bool [h, w], whether only their hue says that they are none.
    """

    chroma: UInt8Array
    cool: BoolArray
    ink: BoolArray
    black: BoolArray
    eosin: BoolArray

    @classmethod
    def of(cls, rgb: UInt8Array) -> Colours:
        """Of ``rgb`` uint8 [h, w, 3]."""
        lightest, darkest = extremes(rgb)
        chroma = lightest - darkest
        hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(rgb).convert("HSV")), -1, 0)
        cool = (hue >= PEN_HUES[0]) & (hue <= PEN_HUES[1])
        cool &= (hue < BLUE_HUE) | (saturation >= INK_SATURATION)
        ink = cool & (chroma >= PEN_CHROMA)
        eosin = (hue >= EOSIN_HUES[0]) & (hue <= EOSIN_HUES[1])
        vivid = (saturation >= VIVID_SATURATION) & (chroma >= VIVID_CHROMA)
        ink |= vivid & ~eosin
        black = (value < BLACK_PEN_VALUE) & (chroma < BLACK_PEN_CHROMA) & (value > UNSCANNED_VALUE)
        return cls(chroma, cool, ink | black, black, vivid & eosin)

    def tissue(self, threshold: int) -> BoolArray:
        """Which pixels have the colour of tissue, bool [h, w]."""
        return (self.chroma >= threshold) & ~self.cool


def may_be_ink(rgb: UInt8Array) -> BoolArray:
    """All of the ``ink`` of :class:`Colours`, and a little more, bool [h, w]: four times faster.

    Hues from yellow-green to blue have more green than red, which stained tissue seldom has.
    """
    lightest, darkest = extremes(rgb)
    chroma = lightest - darkest
    found: BoolArray = (rgb[..., 0] < rgb[..., 1]) & (chroma >= PEN_CHROMA)
    # Saturation is chroma over lightness, of 255, and rounded.
    purest = chroma.astype(np.uint16) * 255 >= lightest.astype(np.uint16) * (VIVID_SATURATION - 1)
    found |= purest & (chroma >= VIVID_CHROMA)
    found |= (lightest < BLACK_PEN_VALUE) & (chroma < BLACK_PEN_CHROMA)
    return found


def glass_counts(rgb: UInt8Array) -> Int64Array:
    """How many pixels of glass have each level, int64 [3, 256] by channel, in ``rgb`` [h, w, 3].

    Glass is what is bright and nearly grey. Pure white is left out: it is what was not scanned.
    """
    lightest, darkest = extremes(rgb)
    bright = (darkest > GLASS_DARKEST) & (darkest < 255)
    glass = rgb[bright & (lightest - darkest < CHROMA_LIMITS[1])]
    return np.array([np.bincount(channel, minlength=256) for channel in glass.T])


def white_of(counts: Int64Array) -> White:
    """The level of each channel that ``WHITE_PERCENT`` of the glass stays below, by ``counts`` of
    it as :func:`glass_counts` gives; pure white where there is no glass.
    """
    if not counts.any():
        return 255.0, 255.0, 255.0
    red, green, blue = (max(1.0, _percentile(channel, WHITE_PERCENT)) for channel in counts)
    return red, green, blue


def white_balanced(rgb: UInt8Array, white: White) -> UInt8Array:
    """``rgb`` uint8 [h, w, 3] with ``white`` made 255 in each channel."""
    levels = np.rint(np.arange(256) * 255 / np.array(white)[:, None])
    tables = np.minimum(levels, 255).astype(np.uint8)
    balanced = np.empty_like(rgb)
    for channel, table in enumerate(tables):
        np.take(table, rgb[..., channel], out=balanced[..., channel], mode="clip")
    return balanced


def chroma_threshold(counts: Int64Array) -> int:
    """The least chroma of tissue, by how many pixels have each: ``counts`` int64 [256]."""
    return int(np.clip(otsu(counts.astype(np.float64)), *CHROMA_LIMITS))


def otsu(counts: NDArray[np.float64]) -> int:
    """The threshold t that best separates values < t from values >= t, of which there are
    ``counts`` [256]; 0 if there are none.
    """
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    moment = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (moment[-1] - moment[:-1]) / above - moment[:-1] / below
        between = np.nan_to_num(below * above * apart**2)
    return int(np.argmax(between)) + 1 if between.any() else 0


def extremes(rgb: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """The largest and the smallest channel of ``rgb`` uint8 [h, w, 3], uint8 [h, w] each."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    lightest: UInt8Array = np.maximum(np.maximum(red, green), blue)
    darkest: UInt8Array = np.minimum(np.minimum(red, green), blue)
    return lightest, darkest


def _percentile(counts: Int64Array, percent: float) -> float:
    """``numpy.percentile`` of values 0..255 of which there are ``counts`` int64 [256], to the bit:
    between two values it interpolates, from the nearer one.
    """
    ends = np.cumsum(counts)
    place = (int(ends[-1]) - 1) * (percent / 100)
    below = math.floor(place)
    around = (below, min(below + 1, int(ends[-1]) - 1))
    low, high = (int(value) for value in np.searchsorted(ends, around, "right"))
    share = place - below
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
