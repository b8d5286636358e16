"""Whether a tile is worth encoding before the tissue of its slide is known."""

from __future__ import annotations

import threading
from enum import Enum

import numpy as np

from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.tiles.tissue import CHROMA_LIMITS, GLASS_DARKEST, PEN_CHROMA, WHITE_PERCENT, otsu


class Guess(Enum):
    """``TISSUE`` by what was seen so far, ``MAYBE`` if the threshold turns out as low as it may be,
    ``GLASS`` unless it lies in a hole."""

    TISSUE = "tissue"
    MAYBE = "maybe"
    GLASS = "glass"


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

    def judge(self, means: UInt8Array) -> Guess:
        """``means`` uint8 [h, w, 3]: those of the tile's squares in the overview."""
        lightest, darkest = means.max(axis=-1), means.min(axis=-1)
        bright = (darkest > GLASS_DARKEST) & (darkest < 255)
        white = self._white(means[bright & (lightest - darkest < CHROMA_LIMITS[1])])
        balanced = np.minimum(means * (255 / white), 255)
        chroma = (balanced.max(axis=-1) - balanced.min(axis=-1) + 0.5).astype(np.uint8)
        # Inks: whatever is greener than red has one of their hues, or is yellow.
        stain = balanced[..., 0] >= balanced[..., 1]
        threshold = self._threshold(chroma[stain | (chroma < PEN_CHROMA)])
        for level, guess in ((threshold, Guess.TISSUE), (CHROMA_LIMITS[0], Guess.MAYBE)):
            if np.count_nonzero(stain & (chroma >= level)) >= self._min_share * stain.size:
                return guess
        return Guess.GLASS

    def _white(self, glass: UInt8Array) -> Float32Array:
        """The brightness float32 [3] that most of the glass stays below, with ``glass`` [n, 3]."""
        with self._lock:
            self._glass += [np.bincount(channel, minlength=256) for channel in glass.T]
            below = np.cumsum(self._glass, axis=1)
        if below[0, -1] == 0:
            return np.full(3, 255, dtype=np.float32)
        wanted = below[:, -1:] * (WHITE_PERCENT / 100)
        white: Float32Array = np.argmax(below >= wanted, axis=1).astype(np.float32)
        return white

    def _threshold(self, chroma: UInt8Array) -> int:
        """The least chroma of tissue, with ``chroma`` [n]."""
        with self._lock:
            self._chroma += np.bincount(chroma, minlength=256)
            counts = self._chroma.astype(np.float64)
        return int(np.clip(otsu(counts), *CHROMA_LIMITS))
