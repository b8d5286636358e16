"""A slide cut into squares for the page, each level half as large as the next (Deep Zoom)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideReadError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.slide import Slide

TILE_PX = 512

MAX_REGION_SCALE = 8.0
"""Pixels that are decoded for one that is shown, a side; what is coarser comes from a picture of
the whole slide that is made once."""

MAX_WHOLE_PX = 4096
"""The longer side of that picture."""

MAX_WHOLE_DECODED_PX = 6_000_000_000

_BLOCK_PX = 4096


@dataclass(frozen=True)
class Pyramid:
    """Deep Zoom levels of a slide of ``size_px`` (w, h): level ``top`` is the slide itself, level 0
    one pixel."""

    size_px: tuple[int, int]

    @property
    def top(self) -> int:
        return math.ceil(math.log2(max(self.size_px)))

    def downsample(self, level: int) -> int:
        """Level-0 slide pixels a pixel of ``level``."""
        return int(2 ** (self.top - level))

    def region(self, level: int, column: int, row: int) -> Region | None:
        """What the tile shows; None if there is no such tile."""
        if not 0 <= level <= self.top or column < 0 or row < 0:
            return None
        downsample = self.downsample(level)
        wide, high = (-(-side // downsample) for side in self.size_px)
        left, top = column * TILE_PX, row * TILE_PX
        if left >= wide or top >= high:
            return None
        size = (min(TILE_PX, wide - left), min(TILE_PX, high - top))
        return Region((left * downsample, top * downsample), float(downsample), size)


@dataclass(frozen=True)
class Region:
    """A rectangle of a slide: level-0 corner, level-0 pixels a pixel shown, (w, h) as shown."""

    xy_px: tuple[int, int]
    downsample: float
    size_px: tuple[int, int]


def best_level(info: SlideInfo, downsample: float) -> int:
    """The coarsest level that is not coarser than ``downsample``."""
    fine = [k for k, own in enumerate(info.downsamples) if own <= downsample * 1.01]
    return max(fine, key=lambda k: info.downsamples[k]) if fine else 0


def read_region(slide: Slide, region: Region) -> UInt8Array:
    """RGB uint8 [h, w, 3] of ``region``. Raises SlideReadError, also where it is much coarser than
    every level: then :func:`read_whole` has to be asked once."""
    level = best_level(slide.info, region.downsample)
    scale = region.downsample / slide.info.downsamples[level]
    width, height = region.size_px
    whole = round(scale)
    if scale > MAX_REGION_SCALE:
        raise SlideReadError(f"{slide.info.slide_id}: no level is coarse enough")
    if whole >= 1 and abs(scale - whole) < 0.01 * whole:
        size = (width * whole, height * whole)
        return slide.read(region.xy_px, level, size, shrink=whole, approximate=True)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = Image.fromarray(slide.read(region.xy_px, level, size))
    return np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def needs_whole(info: SlideInfo, downsample: float) -> bool:
    """Whether a region of ``downsample`` is cut from the picture of the whole slide."""
    return downsample / info.downsamples[best_level(info, downsample)] > MAX_REGION_SCALE


@dataclass(frozen=True)
class WholePicture:
    """The whole slide, ``downsample`` level-0 pixels a pixel: for slides without coarse levels."""

    rgb: UInt8Array
    downsample: float

    def region(self, region: Region) -> UInt8Array:
        """Cut and resize; as :func:`read_region`."""
        scale = region.downsample / self.downsample
        left, top = (place / self.downsample for place in region.xy_px)
        width, height = region.size_px
        box = (left, top, left + width * scale, top + height * scale)
        limits = (self.rgb.shape[1], self.rgb.shape[0])
        inside = (box[0], box[1], min(box[2], limits[0]), min(box[3], limits[1]))
        picture = Image.fromarray(self.rgb)
        shown = picture.resize((width, height), Image.Resampling.BOX, inside)
        return np.asarray(shown)


def read_whole(slide: Slide) -> WholePicture:
    """The coarsest level, reduced by a whole factor to at most MAX_WHOLE_PX a side, in squares of
    bounded memory. Raises SlideReadError, also for a slide of which that would take minutes."""
    info = slide.info
    level = max(range(len(info.downsamples)), key=lambda k: info.downsamples[k])
    downsample = info.downsamples[level]
    wide, high = (max(1, round(side / downsample)) for side in info.size_px)
    if wide * high > MAX_WHOLE_DECODED_PX:
        raise SlideReadError(f"{info.slide_id}: its smallest level is too large for an overview")
    factor = 1 << max(0, math.ceil(math.log2(max(wide, high) / MAX_WHOLE_PX)))
    shrink = min(factor, 8)
    rest = factor // shrink
    rows, columns = -(-high // factor), -(-wide // factor)
    picture = np.full((rows, columns, 3), 255, dtype=np.uint8)
    block = max(factor, _BLOCK_PX // factor * factor)
    for top in range(0, high, block):
        for left in range(0, wide, block):
            size = tuple(
                -(-min(block, side - at) // factor) * factor
                for side, at in ((wide, left), (high, top))
            )
            corner = (round(left * downsample), round(top * downsample))
            part = slide.read(corner, level, (size[0], size[1]), shrink=shrink, approximate=True)
            small = np.asarray(Image.fromarray(part).reduce(rest)) if rest > 1 else part
            row, column = top // factor, left // factor
            picture[row : row + small.shape[0], column : column + small.shape[1]] = small
    return WholePicture(picture, downsample * factor)
