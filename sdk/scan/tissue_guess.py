"""Whether a tile is worth encoding before the tissue of its slide is known."""

from __future__ import annotations

import math
import threading
from enum import Enum

import numpy as np

from pathgene_rt.geometry import Int64Array, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.tiles.tissue_colour import (
    CHROMA_LIMITS,
    Colours,
    White,
    chroma_threshold,
    glass_counts,
    white_balanced,
    white_of,
)


class Guess(Enum):
    """``TISSUE`` by what was seen so far, ``MAYBE`` if the threshold turns out as low as it may be,
    ``GLASS`` unless it lies in a hole; so is a tile of more ink than tissue, since the pale edge of
    a pen mark has the colour of hematoxylin."""

    TISSUE = "tissue"
    MAYBE = "maybe"
    GLASS = "glass"


_GROWN = 1.1
"""What white is and where tissue begins is found anew when so many times the pixels were seen."""


class TissueGuess:
    """:func:`~pathgene_rt.tiles.tissue.tissue_mask` of single tiles. Thread-safe.

    What white is and which chroma is tissue's is taken from the tiles so far. What only the whole
    slide shows (holes, dust, the outlines of pens) is left to the end: a wrong guess costs time,
    never a tile.
    """

    def __init__(self, options: TissueOptions) -> None:
        self._min_share = options.min_tile_share
        self._lock = threading.Lock()
        # How much of the overview so far has each brightness (glass, by channel), each chroma.
        self._glass: Int64Array = np.zeros((3, 256), dtype=np.int64)
        self._chroma: Int64Array = np.zeros(256, dtype=np.int64)
        self._pixels = self._renew_at = 0
        self._white: White = white_of(self._glass)
        self._threshold = CHROMA_LIMITS[0]

    def judge(self, means: UInt8Array) -> Guess:
        """``means`` uint8 [h, w, 3]: those of the tile's squares in the overview."""
        glass = glass_counts(means)
        with self._lock:
            self._glass += glass
            self._pixels += means.shape[0] * means.shape[1]
            renewed = self._pixels >= self._renew_at
            if renewed:
                self._renew_at = math.ceil(_GROWN * self._pixels)
                self._white = white_of(self._glass)
            white = self._white
        colours = Colours.of(white_balanced(means, white))
        chroma = np.bincount(colours.chroma[~colours.ink], minlength=256)
        with self._lock:
            self._chroma += chroma
            if renewed:
                self._threshold = chroma_threshold(self._chroma)
            threshold = self._threshold
        for level, guess in ((threshold, Guess.TISSUE), (CHROMA_LIMITS[0], Guess.MAYBE)):
            tissue = colours.tissue(level)
            found, ink = int(np.count_nonzero(tissue)), int(np.count_nonzero(colours.ink))
            if found >= max(self._min_share * tissue.size, ink):
                return guess
        return Guess.GLASS
