"""Tiles that are out of focus."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile

LEAST_SHARPNESS = 0.07
"""That of tissue blurred by a Gaussian of 1.7 um, where nuclei lose their outlines; sharp tissue
has 0.10 (generated) to 0.41."""

NEAR_UM, FAR_UM = 1.0, 6.0

COARSEST_MPP = 1.5
"""Coarser tiles do not show what is lost first, and are not judged."""

_LEAST_STRUCTURE = 20.0
"""Of squared differences at FAR_UM: glass and noise are neither sharp nor blurred."""


class OutOfFocusTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`.

    Sharpness is the ratio of two points of the image's structure function: the mean squared
    difference of pixels 1 um apart to that of pixels 6 um apart. Blur takes the first and leaves
    the second; strength of stain and contrast change both alike.
    """

    name: ClassVar[str] = "out_of_focus"
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, slide: CheckedSlide) -> None:
        self._mpp = slide.mpp

    def flags(self, tile: CheckedTile) -> bool:
        """Whether the sharpness of ``tile`` is below LEAST_SHARPNESS."""
        sharpness = self.sharpness(tile.rgb)
        return sharpness is not None and sharpness < LEAST_SHARPNESS

    def sharpness(self, rgb: UInt8Array) -> float | None:
        """Of ``rgb`` uint8 [h, w, 3], on its green channel, which shows both stains; None for what
        cannot be judged: coarse or small tiles, and such without structure."""
        if self._mpp > COARSEST_MPP:
            return None
        factor = max(1, round(NEAR_UM / self._mpp))
        step_um = factor * self._mpp
        near, far = max(1, round(NEAR_UM / step_um)), round(FAR_UM / step_um)
        green = Image.fromarray(np.ascontiguousarray(rgb[..., 1])).reduce(factor)
        pixels = np.asarray(green).astype(np.float32)
        if min(pixels.shape) <= 2 * far:
            return None
        structure = _squared_difference(pixels, far)
        if structure < _LEAST_STRUCTURE:
            return None
        return _squared_difference(pixels, near) / structure


def _squared_difference(pixels: Float32Array, lag: int) -> float:
    """The mean over ``pixels`` float32 [h, w] that lie ``lag`` apart, down and across."""
    total = 0.0
    for apart in (pixels[:, lag:] - pixels[:, :-lag], pixels[lag:] - pixels[:-lag]):
        total += float(np.vdot(apart, apart)) / apart.size
    return total
