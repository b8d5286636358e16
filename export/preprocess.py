"""Tiles as bytes -> what the encoder was trained on, inside the graph.

Every engine then sees uint8 and nobody preprocesses twice. The resize gives the pixels that
Pillow's antialiased filters give, which CLAM and TRIDENT feed their encoders with.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathgene_rt.bundle.spec import Interpolation, Preprocess

Weights = NDArray[np.float64]

_BLOCK_PX = 32
"""Of 256 to 224 pixels, where blocks of 224, 112, 56 and 32 were tried, it is the fastest."""


def _triangle(distance: Weights) -> Weights:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: Weights) -> Weights:
    """R. Keys, "Cubic convolution interpolation" (1981), with the free parameter a = -0.5."""
    a, x = -0.5, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS: dict[Interpolation, tuple[Callable[[Weights], Weights], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
"""Of each, the weight by distance and half its width."""


def resize_coefficients(source_px: int, target_px: int, interpolation: Interpolation) -> Weights:
    """Antialiased weights, float64 [target_px, source_px]; each row sums to one.

    The filter in units of an output pixel (of an input pixel when enlarging), sampled at the
    centres of the input pixels: the method of Pillow's ``Resample.c``, whose window limits and
    coefficients are reproduced.
    """
    kernel, width = _FILTERS[interpolation]
    scale = source_px / target_px
    unit = max(scale, 1.0)
    weights = np.zeros((target_px, source_px))
    for target in range(target_px):
        centre = (target + 0.5) * scale
        first = max(int(centre - width * unit + 0.5), 0)
        last = min(int(centre + width * unit + 0.5), source_px)
        window = kernel(np.abs(np.arange(first, last) + 0.5 - centre) / unit)
        weights[target, first:last] = window / window.sum()
    return weights


def coefficient_parts(
    source_px: int, target_px: int, interpolation: Interpolation = "bilinear"
) -> list[NDArray[np.float32]]:
    """:func:`resize_coefficients` such that products with bytes are exact in float32.

    One or two float32 [target_px, source_px], for :func:`_to_levels`. Pillow keeps coefficients as
    multiples of 2**-22; times a byte that needs 30 bits, and float32 has 24. So there are two
    parts, multiples of 2**-11 and what is left in units of 2**-11, whose products are exact
    whatever the order of summation: every engine in float32 rounds as Pillow does.

    Bilinear from 8 to 7 pixels (256 to 224), multiples of 2**-16 give the same levels in one part,
    at half the cost: weights there are whole parts of 18 or 19; halves, where a rounding could
    turn, occur only with 18 parts; and since 2**6 leaves 1 when divided by 9, the error that
    decides a half has the same sign with 16 and with 22 bits.
    """
    exact = resize_coefficients(source_px, target_px, interpolation)
    if interpolation == "bilinear" and Fraction(source_px, target_px) == Fraction(8, 7):
        return [_whole(exact, 16).astype(np.float32) / np.float32(1 << 16)]
    coarse, fine = np.divmod(_whole(exact, 22), 1 << 11)
    return [part.astype(np.float32) / np.float32(1 << 11) for part in (coarse, fine)]


def _whole(weights: Weights, bits: int) -> NDArray[np.int64]:
    """The nearest multiples, halves away from zero."""
    return np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int64)


def _to_levels(coarse: Tensor, *fine: Tensor) -> Tensor:
    """Products with the coefficient parts -> the nearest levels, halves up."""
    for units in fine:
        # Whole units decide: the floor of a sum is that of its whole part plus the other's floor.
        coarse = coarse + torch.floor(units) * 2.0**-11
    return torch.floor(coarse + 0.5)


class _Bands(nn.Module):
    """Products with ``weights`` [r, p], of which each row is zero but for a few neighbours.

    Rows are taken in blocks, with the pixels that a block sees: most zeros are left out, and the
    resize takes less than half the time.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.spans: list[slice] = []
        for number, rows in enumerate(torch.split(weights, _BLOCK_PX)):
            seen = rows.any(dim=0).nonzero().flatten().tolist() or [0]
            span = slice(seen[0], seen[-1] + 1)
            self.spans.append(span)
            self.register_buffer(f"block{number}", rows[:, span].contiguous(), persistent=False)

    def forward(self, levels: Tensor, axis: int) -> Tensor:
        """Levels [..., q, p] -> [..., q, r] along axis -1, [..., p, q] -> [..., r, q] along -2."""
        blocks = [(self.get_buffer(f"block{n}"), span) for n, span in enumerate(self.spans)]
        if axis == -1:
            found = [levels[..., span] @ block.T for block, span in blocks]
        else:
            found = [block @ levels[..., span, :] for block, span in blocks]
        return torch.cat(found, dim=axis)


class TileResize(nn.Module):
    """Levels 0..255 as float32 [n, 3, p, p] -> the middle ``crop_px`` of the levels resized to
    ``target_px``, float32 [n, 3, crop_px, crop_px].

    Along the rows first, then down the columns, rounded to the nearest level after each, as Pillow
    does.
    """

    def __init__(
        self,
        source_px: int,
        target_px: int,
        interpolation: Interpolation = "bilinear",
        crop_px: int | None = None,
    ) -> None:
        super().__init__()
        middle = middle_of(target_px, crop_px or target_px)
        parts = coefficient_parts(source_px, target_px, interpolation)
        self.parts = nn.ModuleList(_Bands(torch.from_numpy(part[middle])) for part in parts)
        self.overshoots = interpolation == "bicubic"

    def forward(self, levels: Tensor) -> Tensor:
        for axis in (-1, -2):
            levels = _to_levels(*(part(levels, axis) for part in self.parts))
            if self.overshoots:
                levels = levels.clamp(0, 255)
        return levels


def middle_of(side_px: int, crop_px: int) -> slice:
    """The span of a centre crop, halves to the even pixel as torchvision's ``center_crop``."""
    first = round((side_px - crop_px) / 2)
    return slice(first, first + crop_px)


class TilePixels(nn.Module):
    """Tiles uint8 [n, tile_px, tile_px, 3] -> what an encoder takes, float32 [n, 3, i, i] with
    i = ``preprocess.image_px``: resized, cropped and normalised.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        tile_px, resize_px, image_px = (
            preprocess.tile_px,
            preprocess.resize_px,
            preprocess.image_px,
        )
        self.resize = (
            None
            if resize_px == tile_px
            else TileResize(tile_px, resize_px, preprocess.interpolation, image_px)
        )
        self.middle = None if image_px == resize_px else middle_of(resize_px, image_px)
        mean = torch.tensor(preprocess.mean).reshape(3, 1, 1)
        std = torch.tensor(preprocess.std).reshape(3, 1, 1)
        self.register_buffer("gain", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        # First of all: TensorRT does nothing else with bytes, not even move them (its issue 3985).
        levels = tiles.to(torch.float32)
        if self.resize is None and self.middle is not None:
            levels = levels[:, self.middle, self.middle]
        levels = levels.permute(0, 3, 1, 2)
        if self.resize is not None:
            levels = self.resize(levels)
        return levels * self.gain + self.offset


class TileEncoder(nn.Module):
    """An encoder that takes bytes: uint8 [n, tile_px, tile_px, 3] -> features float32 [n, D].

    ``encoder`` maps the pixels of :class:`TilePixels` to float32 [n, D].
    """

    def __init__(self, encoder: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.pixels = TilePixels(preprocess)
        self.encoder = encoder

    def forward(self, tiles: Tensor) -> Tensor:
        features: Tensor = self.encoder(self.pixels(tiles))
        return features
