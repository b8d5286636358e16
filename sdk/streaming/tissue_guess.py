"""Whether a tile is worth encoding before the tissue of its slide is known."""

from __future__ import annotations

import threading

import numpy as np

from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.tissue import CHROMA_LIMITS, GLASS_DARKEST, WHITE_PERCENT


class TissueGuess:
    """A permissive :func:`~pathgene_rt.tissue.tissue_mask` of single tiles. Thread-safe.

    A tile may be tissue if enough of it has the chroma that the lowest of the allowed thresholds
    asks for, white being what the glass of the tiles so far says, and a hue of stains. What only the
    whole slide shows (the threshold itself, holes, dust, pens) is left to the end: a wrong guess
    costs time, never a tile.
    """

    def __init__(self, options: TissueOptions) -> None:
        self._min_share = options.min_tile_share
        self._lock = threading.Lock()
        self._levels: Int64Array = np.zeros((3, 256), dtype=np.int64)
        """How much glass has each brightness, by channel."""

    def may_be_tissue(self, means: UInt8Array) -> bool:
        """``means`` uint8 [h, w, 3]: those of the tile's squares in the overview."""
        lightest, darkest = means.max(axis=-1), means.min(axis=-1)
        bright = (darkest > GLASS_DARKEST) & (darkest < 255)
        white = self._white(means[bright & (lightest - darkest < CHROMA_LIMITS[1])])
        balanced = np.minimum(means * (255 / white), 255)
        chroma = balanced.max(axis=-1) - balanced.min(axis=-1)
        # Pens: whatever is greener than red has one of their hues, or yellow.
        stained = (chroma > CHROMA_LIMITS[0] - 1) & (balanced[..., 0] >= balanced[..., 1])
        return bool(np.count_nonzero(stained) >= self._min_share * stained.size)

    def _white(self, glass: UInt8Array) -> Float32Array:
        """The brightness float32 [3] that most of the glass stays below, with ``glass`` [n, 3]."""
        with self._lock:
            self._levels += [np.bincount(channel, minlength=256) for channel in glass.T]
            below = np.cumsum(self._levels, axis=1)
        if below[0, -1] == 0:
            return np.full(3, 255, dtype=np.float32)
        wanted = below[:, -1:] * (WHITE_PERCENT / 100)
        white: Float32Array = np.argmax(below >= wanted, axis=1).astype(np.float32)
        return white
