"""Where the tissue is: a mask from a slide's overview, with what it says of the slide's quality.

Which colours are tissue's and ink's: :mod:`~pathgene_rt.tiles.tissue_colour`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from pathgene_rt.geometry import BoolArray, SlideInfo, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.slides.slide import Slide
from pathgene_rt.tiles.connected_components import fill_holes, remove_small
from pathgene_rt.tiles.tissue_colour import (
    Colours,
    chroma_threshold,
    glass_counts,
    white_balanced,
    white_of,
)

MAX_MASK_PX = 6_000_000
"""Finding tissue takes about 27 bytes a pixel, so 160 MB."""

MAX_PIGMENT_UM2 = 250_000.0
"""What is black and as small as that, with tissue all around it, is carbon or melanin: pen marks
are larger, or reach out of the tissue."""

MIN_PEN_UM2 = 20_000.0
PEN_MARGIN_UM = 40.0
"""Ink bleeds: what lies this close to a mark is not trusted."""


@dataclass(frozen=True)
class TissueMask:
    """``mask`` bool [h, w], pixels of ``mpp`` um from level-0 (0, 0) on.

    ``quality`` is for the report: ``tissue_area_mm2``, ``tissue_share``, ``tissue_regions``
    (connected components of the mask), ``pen_area_mm2``, ``pen_share`` (shares of the whole slide),
    ``chroma_threshold`` (of 255) and ``mask_mpp``.
    """

    mask: BoolArray
    mpp: float
    quality: dict[str, float]


def find_tissue(slide: Slide, options: TissueOptions) -> tuple[TissueMask, UInt8Array]:
    """The tissue of ``slide``, and the overview uint8 [h, w, 3] that it was found on.

    The overview has ``options.mask_mpp``, coarser where that would be over MAX_MASK_PX: memory
    must not grow with the slide. Raises SlideScaleError and SlideReadError.
    """
    overview = slide.overview(overview_mpp(slide.info, options))
    mpp = slide_mpp(slide.info) * overview.downsample
    return tissue_mask(overview.rgb, mpp, options), overview.rgb


def overview_mpp(info: SlideInfo, options: TissueOptions) -> float:
    """The scale of the overview on which tissue is found. Raises SlideScaleError."""
    width, height = info.size_px
    coarsest = slide_mpp(info) * math.sqrt(width * height / MAX_MASK_PX)
    return max(options.mask_mpp, coarsest)


def tissue_mask(rgb: UInt8Array, mpp: float, options: TissueOptions) -> TissueMask:
    """Find tissue in the overview ``rgb`` uint8 [h, w, 3] of ``mpp`` micrometres per pixel.

    Pen marks are left out, with a margin; holes are filled and dust removed by area. Deterministic.
    """
    colours = Colours.of(white_balanced(rgb, white_of(glass_counts(rgb))))
    pen = _pen(colours.ink, mpp)

    smooth = np.asarray(Image.fromarray(colours.chroma).filter(ImageFilter.MedianFilter(3)))
    threshold = chroma_threshold(np.bincount(smooth[~pen], minlength=256))
    mask = replace(colours, chroma=smooth).tissue(threshold)
    pixel_um2 = mpp * mpp
    pigment = fill_holes(mask, MAX_PIGMENT_UM2 / pixel_um2) & ~mask & colours.black
    if pigment.any():
        mask |= pigment
        pen = _pen(colours.ink & ~pigment, mpp)
    mask = fill_holes(mask, options.max_hole_um2 / pixel_um2) & ~pen
    mask, regions = remove_small(mask, options.min_area_um2 / pixel_um2)

    tissue_px, pen_px = int(np.count_nonzero(mask)), int(np.count_nonzero(pen))
    quality = {
        "tissue_area_mm2": round(tissue_px * pixel_um2 / 1e6, 4),
        "tissue_share": round(tissue_px / mask.size, 4),
        "tissue_regions": regions,
        "pen_area_mm2": round(pen_px * pixel_um2 / 1e6, 4),
        "pen_share": round(pen_px / mask.size, 4),
        "chroma_threshold": threshold,
        "mask_mpp": round(mpp, 4),
    }
    return TissueMask(mask, mpp, quality)


def _pen(ink: BoolArray, mpp: float) -> BoolArray:
    """The marks among what may be ``ink``, with a margin around them."""
    ink, marks = remove_small(ink, MIN_PEN_UM2 / (mpp * mpp))
    return _grown(ink, max(1, round(PEN_MARGIN_UM / mpp))) if marks else ink


def _grown(mask: BoolArray, radius_px: int) -> BoolArray:
    """``mask`` and all pixels up to ``radius_px`` rows and columns away from it."""
    grown = mask.copy()
    for step in range(1, radius_px + 1):
        grown[step:] |= mask[:-step]
        grown[:-step] |= mask[step:]
    wide = grown.copy()
    for step in range(1, radius_px + 1):
        wide[:, step:] |= grown[:, :-step]
        wide[:, :-step] |= grown[:, step:]
    return wide
