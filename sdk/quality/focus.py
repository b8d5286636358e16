"""Tiles that are out of focus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.quality.check import CheckedSlide, CheckedTile

LEAST_SHARPNESS = 0.07
"""That of tissue blurred by a Gaussian of 1.7 um, where nuclei lose their outlines; sharp tissue
has 0.10 (generated) to 0.41."""

NEAR_UM, FAR_UM = 1.0, 6.0
STRIPS_UM = 8.0
"""From one row, or column, of micrometres that is looked at to the next. All of them gave the same
ratio within 11 % on sharp tissue, 3 % on blurred."""

COARSEST_MPP = 1.5
"""Coarser tiles do not show what is lost first, and are not judged."""

_LEAST_STRUCTURE = 10.0
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
        """Of ``rgb`` uint8 [p, p, 3], on its green channel, which shows both stains; None for what
        cannot be judged: coarse or small tiles, and such without structure."""
        if self._mpp > COARSEST_MPP:
            return None
        factor = max(1, round(NEAR_UM / self._mpp))
        step_um = factor * self._mpp
        near, far = max(1, round(NEAR_UM / step_um)), round(FAR_UM / step_um)
        if min(rgb.shape[:2]) <= 2 * far * factor:
            return None
        green = rgb[..., 1]
        apart = round(STRIPS_UM / step_um)
        # Tiles are square, so rows and columns fit one array.
        strips = np.empty((2, len(rgb) // (factor * apart), len(rgb) // factor), dtype=np.float32)
        for pixels, sums in zip((green, green.T), strips, strict=True):
            _reduce(pixels, factor, apart, sums)
        structure = _squared_difference(strips, far) / factor**4
        if structure < _LEAST_STRUCTURE:
            return None
        return _squared_difference(strips, near) / factor**4 / structure


def _reduce(pixels: UInt8Array, factor: int, apart: int, sums: Float32Array) -> None:
    """Sum ``factor`` x ``factor`` of ``pixels`` uint8 [p, p] into each of ``sums`` float32 [p /
    factor / apart, p / factor], which are every ``apart``-th row of them."""
    count, width = sums.shape
    rows = pixels[: count * factor * apart, : width * factor].reshape(count, factor * apart, -1)
    # Row by row, then column by column: along an axis of two or four numpy's own sum is slow.
    columns = _sum([rows[:, row] for row in range(factor)])
    np.copyto(sums, _sum([columns[:, column::factor] for column in range(factor)]))


def _sum(parts: Sequence[NDArray[np.unsignedinteger[Any]]]) -> NDArray[np.uint16]:
    first, *others = parts
    total: NDArray[np.uint16] = np.add(first, others[0] if others else 0, dtype=np.uint16)
    for part in others[1:]:
        total += part
    return total


def _squared_difference(strips: Float32Array, lag: int) -> float:
    """The mean over pixels of ``strips`` float32 [2, n, w] that lie ``lag`` apart along them."""
    apart = strips[..., lag:] - strips[..., :-lag]
    return float(np.vdot(apart, apart)) / apart.size
