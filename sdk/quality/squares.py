"""A tile as squares of 8 um, for artefacts that have no structure of tissue's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pathgene_rt.geometry import Float32Array, UInt8Array

SAMPLE_UM, SAMPLES = 2.0, 4
"""Pixels are averaged over the first; a square has as many of these samples a side."""

_LEFT_OUT = 2
"""Of a square's lightest and darkest samples each, before its spread is taken."""


@dataclass(frozen=True, eq=False)
class Squares:
    """Of each square, float32 [rows, columns]: ``light`` is the mean of its samples' lightest
    channels, ``chroma`` that of their largest less their smallest, ``spread`` how far apart the
    lightest channels of its samples are; all of 255. ``means`` uint8 [rows, columns, 3] are the
    colours of squares. Empty for a tile smaller than a square.
    """

    light: Float32Array
    chroma: Float32Array
    spread: Float32Array
    means: UInt8Array

    @classmethod
    def of(cls, rgb: UInt8Array, mpp: float) -> Squares:
        """Of ``rgb`` uint8 [h, w, 3] at ``mpp`` um/px."""
        factor = max(1, round(SAMPLE_UM / mpp))
        if min(rgb.shape[:2]) < factor * SAMPLES:
            none = np.empty((0, 0), dtype=np.float32)
            return cls(none, none, none, np.empty((0, 0, 3), dtype=np.uint8))
        step = max(1, factor // 2)  # two rows of pixels stand for a sample's
        rows = Image.fromarray(rgb[: len(rgb) // step * step : step])
        reduced = rows.reduce((factor, factor // step))
        wide, high = (side // SAMPLES * SAMPLES for side in reduced.size)
        means = np.asarray(reduced.reduce(SAMPLES, box=(0, 0, wide, high)))
        samples = np.asarray(reduced)
        red, green, blue = (samples[..., channel] for channel in range(3))
        lightest = np.maximum(np.maximum(red, green), blue)
        light = np.sort(_by_square(lightest), axis=-1)
        chroma = _by_square(lightest - np.minimum(np.minimum(red, green), blue))
        spread = light[..., -1 - _LEFT_OUT].astype(np.float32) - light[..., _LEFT_OUT]
        return cls(
            light.mean(axis=-1, dtype=np.float32),
            chroma.mean(axis=-1, dtype=np.float32),
            spread,
            means,
        )


def _by_square(samples: UInt8Array) -> UInt8Array:
    """[h, w] as [h / SAMPLES, w / SAMPLES, samples of the square]; what is left over is cut off."""
    rows, columns = (side // SAMPLES for side in samples.shape)
    whole = samples[: rows * SAMPLES, : columns * SAMPLES]
    parted = whole.reshape(rows, SAMPLES, columns, SAMPLES).swapaxes(1, 2)
    return parted.reshape(rows, columns, SAMPLES * SAMPLES)
