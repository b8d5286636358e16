"""The whole slide as one small picture, for every reader that can read a region."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideReadError, TileDecodeError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.slides.slide import Overview, Slide

BLOCK_PX = 1536
MAX_OVERVIEW_PX = 1 << 24
MAX_DECODED_PX = 1 << 34

DAMAGED_PX = 256
"""Around a damaged place, squares of up to this side take the colour of what lies about them."""

MAX_DAMAGED = 256
"""Such squares; no use in going on with a slide that has more."""


def read_overview(slide: Slide, mpp: float) -> Overview:
    """``slide`` at about ``mpp`` um/px: box means over a whole number of pixels of one level.

    The coarsest level that is not coarser than ``mpp`` is read in squares of ``BLOCK_PX``, so that
    memory is that of a few such squares (some 10 MB each) plus the result, whatever the size of the
    slide. (Decoding at reduced size is two to four times faster on slides of one level, but moves
    the edge of the tissue a little.) The result has at most ``MAX_OVERVIEW_PX`` pixels: a larger
    canvas gets a coarser one.

    Raises SlideReadError, also where no level is coarse enough and more than ``MAX_DECODED_PX``
    would have to be decoded; TileDecodeError where more than ``MAX_DAMAGED`` places are damaged, or
    all are; SlideScaleError where the slide has no mpp.
    """
    info = slide.info
    level, factor = overview_level(info, mpp)
    downsample = info.downsamples[level]
    width, height = (max(1, round(side / downsample)) for side in info.size_px)
    if width * height > MAX_DECODED_PX:
        raise SlideReadError(
            f"{info.slide_id}: its {width} x {height} px would have to be decoded to find tissue; "
            "convert it to a file with pyramid levels"
        )
    block = max(factor, BLOCK_PX // factor * factor)
    rgb = np.full((-(-height // factor), -(-width // factor), 3), 255, dtype=np.uint8)
    squares = [
        (left, top, block) for top in range(0, height, block) for left in range(0, width, block)
    ][::-1]
    damaged: list[tuple[int, int, int]] = []
    decoded = False
    while squares:
        left, top, side = squares.pop()
        size = (min(side, width - left), min(side, height - top))
        corner = (round(left * downsample), round(top * downsample))
        try:
            pixels = slide.read(corner, level, size)
        except TileDecodeError:
            parts = _quarters(left, top, side, size, factor)
            squares += parts
            if not parts:
                damaged.append((left // factor, top // factor, -(-side // factor)))
            if len(damaged) > MAX_DAMAGED or not (squares or decoded):
                raise
            continue
        decoded = True
        small = np.asarray(Image.fromarray(pixels).reduce(factor))
        row, column = top // factor, left // factor
        rgb[row : row + small.shape[0], column : column + small.shape[1]] = small
    _patch(rgb, damaged)
    return Overview(rgb, downsample * factor)


def _patch(rgb: UInt8Array, damaged: list[tuple[int, int, int]]) -> None:
    """Give each damaged square (left, top, side) of ``rgb`` the mean colour of its surroundings.

    So damage amid tissue counts as tissue: its tiles are read, found damaged and counted.
    """
    if not damaged:
        return
    known = np.ones(rgb.shape[:2], dtype=np.bool_)
    for left, top, side in damaged:
        known[top : top + side, left : left + side] = False
    for left, top, side in damaged:
        around = (slice(max(0, top - 2), top + side + 2), slice(max(0, left - 2), left + side + 2))
        if known[around].any():
            colour = rgb[around][known[around]].mean(axis=0)
            rgb[top : top + side, left : left + side] = np.rint(colour).astype(np.uint8)
            known[top : top + side, left : left + side] = True


def _quarters(
    left: int, top: int, side: int, size: tuple[int, int], factor: int
) -> list[tuple[int, int, int]]:
    """(left, top, side) of the parts of a square that lie on the slide, a multiple of ``factor``;
    none if it is small already. ``size`` (w, h) is how much of the square lies on the slide.
    """
    half = -(-side // (2 * factor)) * factor
    if side <= max(DAMAGED_PX, factor):
        return []
    return [
        (left + right, top + down, half)
        for down in (0, half)
        for right in (0, half)
        if right < size[0] and down < size[1]
    ]


def overview_level(info: SlideInfo, mpp: float) -> tuple[int, int]:
    """The level that is read for an overview at about ``mpp`` um/px, and the whole factor by which
    it is reduced. Raises SlideScaleError.
    """
    wanted = mpp / slide_mpp(info)
    smallest = math.sqrt(info.size_px[0] * info.size_px[1] / MAX_OVERVIEW_PX)
    wanted = max(wanted, smallest, 1.0)
    level = max(
        (k for k, downsample in enumerate(info.downsamples) if downsample <= wanted * 1.01),
        key=lambda k: info.downsamples[k],
    )
    rounding = math.ceil if wanted == smallest else round
    return level, max(1, rounding(wanted / info.downsamples[level]))
