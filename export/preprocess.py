"""Tiles as bytes -> what the encoder was trained on, inside the graph.

Every engine then sees uint8 and nobody preprocesses twice. The resize gives the pixels that
Pillow's antialiased bilinear filter gives, which CLAM and TRIDENT feed their encoders with.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathgene_rt.model_spec import Preprocess

_BLOCK_PX = 32
"""Of 256 to 224 pixels, where blocks of 224, 112, 56 and 32 were tried, it is the fastest."""


def bilinear_coefficients(source_px: int, target_px: int) -> NDArray[np.float64]:
    """Antialiased bilinear weights, float64 [target_px, source_px]; each row sums to one.

    A triangle whose half-width is one output pixel (one input pixel when enlarging), sampled at
    the centres of the input pixels: the method of Pillow's ``Resample.c``, whose window limits and
    coefficients are reproduced.
    """
    scale = source_px / target_px
    support = max(scale, 1.0)
    weights = np.zeros((target_px, source_px))
    for target in range(target_px):
        centre = (target + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), source_px)
        distance = np.abs(np.arange(first, last) + 0.5 - centre) / support
        window = np.maximum(1.0 - distance, 0.0)
        weights[target, first:last] = window / window.sum()
    return weights


def coefficient_parts(source_px: int, target_px: int) -> list[NDArray[np.float32]]:
    """:func:`bilinear_coefficients` such that products with bytes are exact in float32.

    One or two float32 [target_px, source_px], for :func:`_to_levels`. Pillow keeps coefficients as
    multiples of 2**-22; times a byte that needs 30 bits, and float32 has 24. So there are two
    parts, multiples of 2**-11 and what is left in units of 2**-11, whose products are exact
    whatever the order of summation: every engine in float32 rounds as Pillow does.

    From 8 to 7 pixels (256 to 224) multiples of 2**-16 give the same levels in one part, at half
    the cost: weights there are whole parts of 18 or 19; halves, where a rounding could turn, occur
    only with 18 parts; and since 2**6 leaves 1 when divided by 9, the error that decides a half has
    the same sign with 16 and with 22 bits.
    """
    exact = bilinear_coefficients(source_px, target_px)
    if Fraction(source_px, target_px) == Fraction(8, 7):
        return [_whole(exact, 16).astype(np.float32) / np.float32(1 << 16)]
    coarse, fine = np.divmod(_whole(exact, 22), 1 << 11)
    return [part.astype(np.float32) / np.float32(1 << 11) for part in (coarse, fine)]


def _whole(weights: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    return np.floor(weights * (1 << bits) + 0.5).astype(np.int64)


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
    """Levels 0..255 as float32 [n, 3, p, p] -> resized levels, float32 [n, 3, r, r].

    Along the rows first, then down the columns, rounded to the nearest level after each, as Pillow
    does.
    """

    def __init__(self, source_px: int, target_px: int) -> None:
        super().__init__()
        parts = coefficient_parts(source_px, target_px)
        self.parts = nn.ModuleList(_Bands(torch.from_numpy(part)) for part in parts)

    def forward(self, levels: Tensor) -> Tensor:
        narrow = _to_levels(*(part(levels, -1) for part in self.parts))
        return _to_levels(*(part(narrow, -2) for part in self.parts))


class TileEncoder(nn.Module):
    """An encoder that takes bytes: uint8 [n, tile_px, tile_px, 3] -> features float32 [n, D].

    ``encoder`` maps normalised float32 [n, 3, resize_px, resize_px] to float32 [n, D].
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, encoder: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        same = preprocess.resize_px == preprocess.tile_px
        self.resize = None if same else TileResize(preprocess.tile_px, preprocess.resize_px)
        mean = torch.tensor(preprocess.mean).reshape(3, 1, 1)
        std = torch.tensor(preprocess.std).reshape(3, 1, 1)
        self.register_buffer("gain", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)
        self.encoder = encoder

    def forward(self, tiles: Tensor) -> Tensor:
        levels = tiles.permute(0, 3, 1, 2).to(torch.float32)
        if self.resize is not None:
            levels = self.resize(levels)
        features: Tensor = self.encoder(levels * self.gain + self.offset)
        return features
