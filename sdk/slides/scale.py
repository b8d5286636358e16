"""What counts as a slide's scale. A scale is never guessed."""

from __future__ import annotations

import math

from pathgene_rt.errors import SlideScaleError
from pathgene_rt.geometry import SlideInfo

SENSIBLE_MPP = (0.01, 100.0)
"""Outside it a value is no microscope's: e.g. the 72 dpi (352 um/px) of an image editor's TIFF."""

MAX_ANISOTROPY = 0.02


def declared_mpp(slide_id: str, mpp_x: str | None, mpp_y: str | None) -> float | None:
    """Micrometres per pixel from what a file declares for x and y; None if that is no scale.

    Raises SlideScaleError if x and y differ by more than ``MAX_ANISOTROPY``: tiles would be
    distorted, and only the caller can say which of the two is right (``--mpp``).
    """
    x, y = _sensible(mpp_x), _sensible(mpp_y)
    if x is None or y is None:
        return None
    mean = (x + y) / 2
    if abs(x - y) > MAX_ANISOTROPY * mean:
        raise SlideScaleError(
            f"{slide_id}: declares {x:.4g} um/px across but {y:.4g} um/px down; "
            "give the right one with --mpp"
        )
    return mean


def slide_mpp(info: SlideInfo) -> float:
    """``info.mpp``, or SlideScaleError where the slide declares none."""
    if info.mpp is None:
        raise SlideScaleError(
            f"{info.slide_id}: the file does not say its micrometres per pixel; "
            "give them with --mpp, e.g. --mpp 0.25"
        )
    return info.mpp


def _sensible(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    low, high = SENSIBLE_MPP
    return value if low <= value <= high else None
