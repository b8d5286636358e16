"""A tile as squares of 8 um, for artefacts that have no structure of tissue's size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from pathgene_rt.geometry import BoolArray, Float32Array, UInt8Array
from pathgene_rt.tiles.tissue_colour import extremes

SAMPLE_UM, SAMPLES = 2.0, 4
"""Pixels are averaged over the first; a square has as many of these samples a side."""

DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density by level: light is 255 where nothing absorbs it."""

_LEFT_OUT = 2
"""Of a square's lightest and darkest samples each, before its spread is taken."""


_PIXELS = 22
"""A side. numpy lets other threads run during an operation on more than 500 elements, and to get
the interpreter back from one that reads another tile takes longer than the operation."""


_T = TypeVar("_T")


class _Once(Generic[_T]):
    """functools.cached_property without its lock, which all instances share in Python 3.11: threads
    that read would wait for each other's tiles."""

    def __init__(self, compute: Callable[[Squares], _T]) -> None:
        self._compute, self._name = compute, compute.__name__

    def __get__(self, squares: Squares, owner: type[Squares]) -> _T:
        value = self._compute(squares)
        vars(squares)[self._name] = value
        return value


@dataclass(frozen=True, eq=False)
class Pixels:
    """Single pixels of a tile, evenly spaced: ``rgb`` uint8 [rows, columns, 3]; ``light`` is the
    lightest channel of each, ``chroma`` its largest less its smallest, uint8 [rows, columns]. They
    tell nearly every clean tile for a tenth of what its squares cost.
    """

    rgb: UInt8Array
    light: UInt8Array
    chroma: UInt8Array


@dataclass(frozen=True, eq=False)
class Squares:
    """Of ``rgb`` uint8 [h, w, 3] at ``mpp`` um/px: [rows, columns] of squares, none for a tile
    smaller than one. What nobody asks for is not computed.
    """

    rgb: UInt8Array
    mpp: float

    @_Once
    def pixels(self) -> Pixels:
        """Of the tile, without means."""
        apart = math.ceil(max(self.rgb.shape[:2]) / _PIXELS)
        rgb = self.rgb[::apart, ::apart]
        lightest, darkest = extremes(rgb)
        return Pixels(rgb, lightest, lightest - darkest)

    @_Once
    def means(self) -> UInt8Array:
        """The colours of squares, uint8 [rows, columns, 3]."""
        if self._reduced is None:
            return np.empty((0, 0, 3), dtype=np.uint8)
        wide, high = (side // SAMPLES * SAMPLES for side in self._reduced.size)
        return np.asarray(self._reduced.reduce(SAMPLES, box=(0, 0, wide, high)))

    @_Once
    def light(self) -> Float32Array:
        """The mean of each square's samples' lightest channels, of 255, float32."""
        light: Float32Array = self._sorted_light.mean(axis=-1, dtype=np.float32)
        return light

    @_Once
    def chroma(self) -> Float32Array:
        """The mean of each square's samples' largest less smallest channel, of 255, float32."""
        lightest, darkest = self._sample_extremes
        chroma: Float32Array = _by_square(lightest - darkest).mean(axis=-1, dtype=np.float32)
        return chroma

    @_Once
    def spread(self) -> Float32Array:
        """How far apart the lightest channels of each square's samples are, of 255, float32."""
        light = self._sorted_light
        spread: Float32Array = light[..., -1 - _LEFT_OUT].astype(np.float32) - light[..., _LEFT_OUT]
        return spread

    @property
    def _factor(self) -> int:
        """Pixels a side of a sample."""
        return max(1, round(SAMPLE_UM / self.mpp))

    @_Once
    def _reduced(self) -> Image.Image | None:
        """A pixel a sample."""
        factor = self._factor
        if min(self.rgb.shape[:2]) < factor * SAMPLES:
            return None
        step = max(1, factor // 2)  # two rows of pixels stand for a sample's
        rows = Image.fromarray(self.rgb[: len(self.rgb) // step * step : step])
        return rows.reduce((factor, factor // step))

    @_Once
    def _sample_extremes(self) -> tuple[UInt8Array, UInt8Array]:
        if self._reduced is None:
            none = np.empty((0, 0), dtype=np.uint8)
            return none, none
        return extremes(np.asarray(self._reduced))

    @_Once
    def _sorted_light(self) -> UInt8Array:
        return np.sort(_by_square(self._sample_extremes[0]), axis=-1)


def share(found: BoolArray) -> float:
    """Of ``found`` bool of any shape that is true; 0 where it is empty."""
    return float(np.count_nonzero(found)) / max(1, found.size)


def _by_square(samples: UInt8Array) -> UInt8Array:
    """[h, w] as [h / SAMPLES, w / SAMPLES, samples of the square]; what is left over is cut off."""
    rows, columns = (side // SAMPLES for side in samples.shape)
    whole = samples[: rows * SAMPLES, : columns * SAMPLES]
    parted = whole.reshape(rows, SAMPLES, columns, SAMPLES).swapaxes(1, 2)
    return parted.reshape(rows, columns, SAMPLES * SAMPLES)
