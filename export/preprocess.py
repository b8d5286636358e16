"""Tiles as bytes -> what the encoder was trained on, inside the graph.

Every engine then sees uint8 and nobody preprocesses twice. The resize gives the pixels that
Pillow's antialiased bilinear filter gives, which CLAM and TRIDENT feed their encoders with.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathgene_rt.model_spec import Preprocess

_COEFFICIENT_BITS = 16


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


def exact_coefficients(source_px: int, target_px: int) -> NDArray[np.float32]:
    """:func:`bilinear_coefficients` as multiples of 2**-16, float32 [target_px, source_px].

    The product with a row of bytes is then a sum of multiples of 2**-16 below 2**8: exact in
    float32 whatever the order of summation, so every engine rounds the same way. Pillow keeps 22
    bits. The six bits less cannot turn a rounding from 256 to 224 px: the weights there are whole
    parts of 18 or 19, halves occur only with 18 parts, and 2**6 leaves 1 when divided by 9, so that
    the error that decides a half has the same sign with 16 and 22 bits. For other sizes a few
    pixels in 100,000 may differ by one level.
    """
    steps = 1 << _COEFFICIENT_BITS
    whole = np.floor(bilinear_coefficients(source_px, target_px) * steps + 0.5)
    return (whole / steps).astype(np.float32)


class TileResize(nn.Module):
    """Levels 0..255 as float32 [n, 3, p, p] -> resized levels, float32 [n, 3, r, r].

    Along the rows first, then down the columns, rounded to the nearest level after each, as Pillow
    does.
    """

    across: Tensor
    down: Tensor

    def __init__(self, source_px: int, target_px: int) -> None:
        super().__init__()
        weights = torch.from_numpy(exact_coefficients(source_px, target_px))
        self.register_buffer("across", weights.T.contiguous(), persistent=False)
        self.register_buffer("down", weights, persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        narrow = torch.floor(torch.matmul(levels, self.across) + 0.5)
        return torch.floor(torch.matmul(self.down, narrow) + 0.5)


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
