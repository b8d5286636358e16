"""Where the tissue is: a mask from a slide's overview, with what it says of the slide's quality.

Tissue is what has colour. Chroma (largest minus smallest channel) is high for hematoxylin and eosin
alike, and near zero for glass, dust, shadows and air bubbles, whatever their brightness; unlike HSV
saturation it does not blow up in dark pixels. The threshold is Otsu's (IEEE Trans. SMC 9:62, 1979),
kept between fixed limits, because Otsu's method divides an empty slide or a slide full of tissue
too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from pathgene_rt.geometry import BoolArray, SlideInfo, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.slides.slide import Slide
from pathgene_rt.tiles.connected_components import fill_holes, remove_small

MAX_OVERVIEW_PX = 6_000_000
"""Finding tissue takes about 27 bytes a pixel, so 160 MB."""

CHROMA_LIMITS = (12, 30)
"""Of 255. Below the first lies the noise of JPEG and sensors, above the second pale stroma."""

GLASS_DARKEST, WHITE_PERCENT = 190, 90
"""Glass is brighter than the first in every channel; white is what so much of it stays below."""

PEN_HUES = (50, 167)
"""Of 256 (70 to 235 degrees): yellow-green to blue, which H&E never is."""

PEN_CHROMA = 40
VIVID_SATURATION, VIVID_CHROMA = 190, 110
"""Of 255: purer than any stain or blood seen at this scale, so red and violet ink."""

BLACK_PEN_VALUE, BLACK_PEN_CHROMA = 80, 25
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

    The overview has ``options.mask_mpp``, coarser where that would be over MAX_OVERVIEW_PX: memory
    must not grow with the slide. Raises SlideScaleError and SlideReadError.
    """
    overview = slide.overview(overview_mpp(slide.info, options))
    mpp = slide_mpp(slide.info) * overview.downsample
    return tissue_mask(overview.rgb, mpp, options), overview.rgb


def overview_mpp(info: SlideInfo, options: TissueOptions) -> float:
    """The scale of the overview on which tissue is found. Raises SlideScaleError."""
    width, height = info.size_px
    coarsest = slide_mpp(info) * math.sqrt(width * height / MAX_OVERVIEW_PX)
    return max(options.mask_mpp, coarsest)


def tissue_mask(rgb: UInt8Array, mpp: float, options: TissueOptions) -> TissueMask:
    """Find tissue in the overview ``rgb`` uint8 [h, w, 3] of ``mpp`` micrometres per pixel.

    Pen marks are left out, with a margin; holes are filled and dust removed by area. Deterministic.
    """
    image = _white_balanced(Image.fromarray(rgb))
    chroma_image = _chroma(image)
    hue, saturation, value = (np.asarray(band) for band in image.convert("HSV").split())
    chroma = np.asarray(chroma_image)
    cool = (hue >= PEN_HUES[0]) & (hue <= PEN_HUES[1])
    pen = _pen(cool, chroma, saturation, value, mpp)

    smooth = np.asarray(chroma_image.filter(ImageFilter.MedianFilter(3)))
    counts = np.bincount(smooth[~pen], minlength=256).astype(np.float64)
    threshold = int(np.clip(otsu(counts), *CHROMA_LIMITS))
    mask = (smooth >= threshold) & ~cool
    pixel_um2 = mpp * mpp
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


def _white_balanced(image: Image.Image) -> Image.Image:
    """``image`` with its glass made white: the brightness that most of the glass stays below.

    Glass is what is bright and nearly grey. Pure white is left out: it is what was not scanned.
    """
    bands = image.split()
    darkest = np.asarray(ImageChops.darker(ImageChops.darker(bands[0], bands[1]), bands[2]))
    glass = (
        (darkest > GLASS_DARKEST)
        & (darkest < 255)
        & (np.asarray(_chroma(image)) < CHROMA_LIMITS[1])
    )
    if not glass.any():
        return image
    table: list[int] = []
    for band in bands:
        white = max(1.0, float(np.percentile(np.asarray(band)[glass], WHITE_PERCENT)))
        table.extend(min(255, round(level * 255 / white)) for level in range(256))
    return image.point(table)


def _chroma(image: Image.Image) -> Image.Image:
    """Largest minus smallest channel, as an "L" image."""
    red, green, blue = image.split()
    lightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    return ImageChops.subtract(lightest, darkest)


def _pen(
    cool: BoolArray, chroma: UInt8Array, saturation: UInt8Array, value: UInt8Array, mpp: float
) -> BoolArray:
    """Marks of blue, green, black and red pens with a margin around them."""
    ink = cool & (chroma >= PEN_CHROMA)
    ink |= (saturation >= VIVID_SATURATION) & (chroma >= VIVID_CHROMA)
    ink |= (value < BLACK_PEN_VALUE) & (chroma < BLACK_PEN_CHROMA)
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
