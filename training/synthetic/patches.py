"""Generated bags like tissue: tiles resemble their neighbours, and the signal lies in patches.

Tissue is a few irregular pieces; tumour covers 2 to 40 % of it, in patches of any size; in the
tumour of positive bags many tiles carry the signal. What else the features show varies over the
slide at several scales and says nothing of the label.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.training.synthetic.features import GeneratedBag

_SPACING_PX = 256
_LEAST_TILES = 300
_TUMOUR_SHARES, _CHANCES = (0.02, 0.05, 0.15, 0.4), (0.1, 0.2, 0.4, 0.3)
_TUMOUR, _SIGNAL, _TEXTURE = 3.0, 2.5, 0.8
"""Shifts along directions of their own, in standard deviations of a tile's own noise."""
_TEXTURES = 6

Float64Array = NDArray[np.float64]


def patchy_bags(
    bags: int, width: int = 32, *, sides: tuple[int, int] = (40, 130), seed: int = 0
) -> Iterator[GeneratedBag]:
    """``bags`` bags by turns negative and positive, on grids of ``sides`` (from, to) tiles."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
    for number in range(bags):
        random = np.random.default_rng((seed, number))
        tissue = _tissue(int(random.integers(*sides)), random)
        side, (rows, columns) = len(tissue), np.nonzero(tissue)
        positive = number % 2 == 1
        tumour = _field(side, random.uniform(1.5, side / 8), random)[rows, columns]
        covered = tumour > np.quantile(tumour, 1 - random.choice(_TUMOUR_SHARES, p=_CHANCES))
        carries = covered & (random.random(len(rows)) < random.uniform(0.3, 0.9)) & positive
        features = random.standard_normal((len(rows), width))
        features += _TUMOUR * covered[:, None] * axes[0] + _SIGNAL * carries[:, None] * axes[1]
        for axis in axes[2 : 2 + _TEXTURES]:
            texture = _field(side, random.uniform(1, side / 6), random)[rows, columns]
            features += _TEXTURE * texture[:, None] * axis
        xy = (np.stack([columns, rows], axis=1) * _SPACING_PX).astype(np.int32)
        bag = FeatureBag(
            slide_id=f"patchy-{number:03d}",
            features=features.astype(np.float32),
            xy=xy,
            tile_px=_SPACING_PX,
            mpp=0.5,
            span_px=float(_SPACING_PX),
            encoder_sha256=None,
        )
        yield GeneratedBag(bag, positive)


def _tissue(side: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """bool [side, side] with at least _LEAST_TILES of tissue."""
    while True:
        tissue = _field(side, side / 12, random) > random.uniform(-0.5, 0.8)
        if tissue.sum() >= _LEAST_TILES:
            return tissue


def _field(side: int, scale: float, random: np.random.Generator) -> Float64Array:
    """Smooth noise [side, side] of mean 0 and deviation 1 that changes over ``scale`` tiles."""
    frequency = np.fft.fftfreq(side)
    damping = np.exp(-2 * (np.pi * scale) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((side, side))) * damping).real
    field: Float64Array = (noise - noise.mean()) / noise.std()
    return field
