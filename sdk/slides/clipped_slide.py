"""Slides whose libraries read nothing but what lies within a level."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.pixel_slide import PixelSlide, given_back


class ClippedSlide(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide` to be derived from; what lies outside is white.

    A subclass sets ``level_sizes_px`` and says how a part of a level is read.
    """

    level_sizes_px: list[tuple[int, int]]

    @abstractmethod
    def read_part(self, x: int, y: int, width: int, height: int, level: int) -> UInt8Array:
        """The pixels uint8 [height, width, 3] at (x, y) of ``level``, in its own pixels; all lie
        within it. Raises as :meth:`Slide.read` does.
        """

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,  # noqa: ARG002 - all is always decoded
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        x, y = (math.floor(one / self.info.downsamples[level] + 0.5) for one in xy_px)
        width, height = self.level_sizes_px[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size_px[0], width), min(y + size_px[1], height)
        pixels: UInt8Array = np.full((size_px[1], size_px[0], 3), 255, np.uint8)
        if right > left and bottom > top:
            part = self.read_part(left, top, right - left, bottom - top, level)
            pixels[top - y : bottom - y, left - x : right - x] = part
        return given_back(pixels, shrink, out)
