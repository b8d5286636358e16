"""The overview of a slide from its tiles, as they come, without the slide."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import UInt8Array

Int32 = NDArray[np.int32]

_STRIP = 256
"""Rows of the overview that are divided at once: less memory than all of them."""


class OverviewMosaic:
    """Means over squares of ``factor`` level-0 pixels, with the rounding of Pillow's ``reduce``.

    The picture is that of :func:`~pathgene_rt.slides.overview.read_overview` on a file whose only
    level has the same pixels. What never comes is ``background``. Memory: 12 bytes a pixel of the
    picture, up to twice that while it grows. Thread-safe.
    """

    def __init__(
        self,
        factor: int,
        background: tuple[int, int, int],
        size_px: tuple[int, int] | None = None,
    ) -> None:
        """``size_px`` (w, h) of level 0, if known, saves that the mosaic grows."""
        self._factor = factor
        self._background = np.array(background, dtype=np.int32)
        self._lock = threading.Lock()
        width, height = (-(-side // factor) for side in size_px or (0, 0))
        # What the sums of the squares are above those of nothing but background.
        self._excess: Int32 = np.zeros((height, width, 3), dtype=np.int32)

    def add(self, rgb: UInt8Array, x: int, y: int) -> UInt8Array:
        """Add ``rgb`` uint8 [h, w, 3] at level-0 (``x``, ``y``), each pixel of the slide once.

        Returns the means over its own pixels of the squares that it touches, uint8 [., ., 3].
        """
        factor = self._factor
        sums = _column_sums(_row_sums(rgb, -y % factor, factor), -x % factor, factor)
        down = _pixels_a_square(y, rgb.shape[0], factor)
        across = _pixels_a_square(x, rgb.shape[1], factor)
        counts = (down[:, None] * across)[..., None]
        top, left = y // factor, x // factor
        bottom, right = top + len(down), left + len(across)
        with self._lock:
            self._grow(bottom, right)
            self._excess[top:bottom, left:right] += sums - counts * self._background
        means: UInt8Array = (sums // counts).astype(np.uint8)
        return means

    def picture(self, size_px: tuple[int, int]) -> UInt8Array:
        """The overview uint8 [h, w, 3] of a slide of ``size_px`` (w, h) level-0 pixels."""
        width, height = size_px
        across = _pixels_a_square(0, width, self._factor)
        down = _pixels_a_square(0, height, self._factor)
        with self._lock:
            self._grow(len(down), len(across))
            picture = np.empty((len(down), len(across), 3), dtype=np.uint8)
            for top in range(0, len(down), _STRIP):
                strip = slice(top, min(top + _STRIP, len(down)))
                counts = (down[strip, None] * across)[..., None]
                sums = self._excess[strip, : len(across)] + counts * self._background
                picture[strip] = _rounded_means(sums, counts)
        return picture

    def clear(self) -> None:
        """Free the memory; nothing is asked for any more."""
        with self._lock:
            self._excess = np.zeros((0, 0, 3), dtype=np.int32)

    def _grow(self, height: int, width: int) -> None:
        """Make room for at least ``height`` x ``width``; twice what there is, to do so seldom."""
        rows, columns = self._excess.shape[:2]
        if height <= rows and width <= columns:
            return
        rows = rows if height <= rows else max(height, 2 * rows)
        columns = columns if width <= columns else max(width, 2 * columns)
        grown: Int32 = np.zeros((rows, columns, 3), dtype=np.int32)
        grown[: self._excess.shape[0], : self._excess.shape[1]] = self._excess
        self._excess = grown


def _rounded_means(sums: Int32, counts: Int32) -> UInt8Array:
    """``sums`` [h, w, 3] by ``counts`` [h, w, 1] as Pillow's ``Image.reduce`` divides (Reduce.c):
    by a factor of 24 bits that is rounded down, so that a half may be rounded down as well.
    """
    scale = (np.float32(1 << 32) / (counts * 256).astype(np.float32)).astype(np.uint32)
    means: UInt8Array = (((sums + counts // 2).astype(np.uint32) * scale) >> 24).astype(np.uint8)
    return means


def _pixels_a_square(start: int, length: int, factor: int) -> Int32:
    """How many of ``length`` pixels from ``start`` on fall into each square that they touch."""
    edges = np.arange(start // factor, -(-(start + length) // factor) + 1) * factor
    return np.diff(np.clip(edges, start, start + length)).astype(np.int32)


def _row_sums(rgb: UInt8Array, head: int, factor: int) -> Int32:
    """Sums uint8 [h, w, 3] -> int32 [., w, 3] over ``factor`` rows, of which the first are
    ``head`` alone (0: none) and the last what is left.
    """
    height, width = rgb.shape[:2]
    head = min(head, height)
    whole = (height - head) // factor
    tail = head + whole * factor
    # Sums of bytes stay in 16 bits for up to 257 rows: twice as fast.
    dtype = np.uint16 if factor <= 257 else np.uint32
    parts = []
    if head:
        parts.append(rgb[:head].sum(axis=0, dtype=np.uint32)[None])
    if whole:
        squares = rgb[head:tail].reshape(whole, factor, width, 3)
        parts.append(squares.sum(axis=1, dtype=dtype))
    if tail < height:
        parts.append(rgb[tail:].sum(axis=0, dtype=np.uint32)[None])
    return np.concatenate(parts).astype(np.int32)


def _column_sums(rows: Int32, head: int, factor: int) -> Int32:
    """The same over columns: int32 [h, w, 3] -> int32 [h, ., 3]."""
    width = rows.shape[1]
    starts = np.arange(head % factor, width, factor)
    if head % factor:
        starts = np.concatenate([[0], starts])
    sums: Int32 = np.add.reduceat(rows, starts, axis=1)
    return sums
