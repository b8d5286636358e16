"""Artefacts made on real tiles, each in a way that set no limit of the product's checks.

The limits were set with Gaussian blur, round bubbles with one wall, straight grey bands, and tissue
darkened in smooth patches or under a brown band; ink in eight colours as straight strokes; folds as
straight sharp bands of a tile's own tissue, twice over itself or its mirror image over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import UInt8Array

Make = Callable[[UInt8Array, np.random.Generator, float], UInt8Array]
"""(tile uint8 [p, p, 3], random, um/px) -> the tile with the artefact."""
Plane = NDArray[np.float64]

INKS = {
    "navy": (20, 30, 100),
    "grey": (60, 60, 62),
    "teal": (0, 120, 120),
    "crimson": (180, 0, 30),
    "purple": (90, 0, 140),
    "yellow": (230, 210, 30),
    "lime": (120, 200, 40),
    "pink": (250, 40, 140),
}


def defocus(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
    """A disc as large as the circle of confusion, 4 to 7 um in radius."""
    radius = random.uniform(4, 7) / mpp
    y, x = _axes(rgb)
    return _convolved(rgb, (np.hypot(x, y) <= radius).astype(np.float64))


def shaken(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
    """Moved by 8 to 14 um while it was exposed, along both axes of the stage."""
    y, x = _axes(rgb)
    length, width = random.uniform(8, 14) / mpp / 2, random.uniform(3, 5) / mpp
    return _convolved(rgb, ((np.abs(x) <= length) & (np.abs(y) <= width)).astype(np.float64))


def oval_bubble(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
    """An oval with two dark walls and a bright line between them."""
    y, x = _axes(rgb)
    turn = random.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    size = random.uniform(35, 60) / mpp
    distance = (np.hypot(u, v * random.uniform(1.2, 2)) - size) * mpp
    out = rgb.astype(np.float64)
    for at, wide, grey in ((0.0, 7.0, 80.0), (-12.0, 4.0, 120.0), (-7.0, 1.5, 245.0)):
        wall = np.exp(-(((distance - at) / wide) ** 4))[..., None]
        out = out * (1 - wall) + grey * wall
    return _bytes(out)


def curved_edge(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
    """The edge of a coverslip: a bent shadow, sharp on one side and fading on the other."""
    y, x = _axes(rgb)
    across = (x + y * random.uniform(-1, 1) + y**2 * random.uniform(-0.003, 0.003)) * mpp
    across -= random.uniform(-20, 20)
    shadow = np.where(across > 0, np.exp(-across / random.uniform(8, 14)), 0.0)[..., None] * 0.98
    return _bytes(rgb * (1 - shadow) + random.uniform(75, 105) * shadow)


def charred(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
    """A rim of char: black outside, brown where it fades into the tissue, with grain."""
    y, x = _axes(rgb)
    turn = random.uniform(0, 2 * np.pi)
    depth = (x * np.cos(turn) + y * np.sin(turn)) * mpp + random.uniform(-15, 10)
    burnt = (1 / (1 + np.exp(-depth / 4)))[..., None]
    char = np.array([52, 40, 34]) + random.normal(0, 10, rgb.shape)
    return _bytes(rgb * (1 - burnt) + char * burnt)


def ink_arc(colour: tuple[int, int, int]) -> Make:
    """A bent stroke of a felt pen, thinner at its edges."""

    def make(rgb: UInt8Array, random: np.random.Generator, mpp: float) -> UInt8Array:
        y, x = _axes(rgb)
        radius = random.uniform(60, 120) / mpp
        off = np.abs(np.hypot(x - radius, y - random.uniform(-20, 20) / mpp) - radius) * mpp
        cover = (np.clip(random.uniform(16, 28) - off, 0, 6) / 6 * 0.92)[..., None]
        return _bytes(rgb * (1 - cover) + np.array(colour) * cover)

    return make


LIKE_EOSIN = {
    "fuchsia": (200, 0, 120),
    "cherry": (140, 0, 40),
    "scarlet": (200, 10, 20),
    "rose": (240, 60, 130),
    "magenta": (220, 20, 110),
    "salmon": (250, 110, 100),
}
"""Inks of eosin's hues beside crimson and pink: what of them absorbs light as eosin does cannot be
told from it."""

FoldMake = Callable[[UInt8Array, Sequence[UInt8Array], np.random.Generator, float], UInt8Array]
"""(tile uint8 [p, p, 3], tiles of the same slide's tissue, random, um/px) -> the tile, folded."""

LEAST_FOLDED = 0.15
"""Of a tile's area, that has tissue in all layers."""

_TISSUE_DENSITY = 0.12
"""For green light; less is glass and gaps."""


def bent_fold(
    rgb: UInt8Array, tissue: Sequence[UInt8Array], random: np.random.Generator, mpp: float
) -> UInt8Array:
    """A bent band of 30 to 400 um under other tissue of the slide, out of focus by 1 to 4 um, its
    edges soft."""
    band, layers = _folded(rgb, tissue, random, mpp, 1)
    soft = _bytes(255 * 10 ** -(sum(layers[1:], layers[0])))
    y, x = _axes(rgb)
    disc = np.hypot(x, y) <= random.uniform(1, 4) / mpp
    soft = _convolved(soft, disc.astype(np.float64))
    return _bytes(rgb * (1 - band) + soft * band)


def three_layers(
    rgb: UInt8Array, tissue: Sequence[UInt8Array], random: np.random.Generator, mpp: float
) -> UInt8Array:
    """A bent band of 30 to 400 um under two layers more, both of other tissue of the slide."""
    band, layers = _folded(rgb, tissue, random, mpp, 2)
    return _bytes(255 * 10 ** -(layers[0] + sum(layers[1:]) * band))


def crossing_folds(
    rgb: UInt8Array, tissue: Sequence[UInt8Array], random: np.random.Generator, mpp: float
) -> UInt8Array:
    """Two bands that cross, each under other tissue of the slide."""
    one, layers = _folded(rgb, tissue, random, mpp, 2)
    other = np.rot90(one, random.choice([1, 3]))
    return _bytes(255 * 10 ** -(layers[0] + layers[1] * one + layers[2] * other))


FOLDS: dict[str, FoldMake] = {
    "bent bands under other tissue, out of focus": bent_fold,
    "bands that cross": crossing_folds,
    "three layers": three_layers,
}


def _folded(
    rgb: UInt8Array,
    tissue: Sequence[UInt8Array],
    random: np.random.Generator,
    mpp: float,
    more: int,
) -> tuple[Plane, list[Plane]]:
    """A band 0..1 [h, w, 1], and the optical densities [h, w, 3] of ``rgb`` and ``more`` layers."""
    y, x = (plane * mpp for plane in _axes(rgb))
    while True:
        turn, width = random.uniform(0, np.pi), np.exp(random.uniform(np.log(30), np.log(400)))
        along = y * np.cos(turn) - x * np.sin(turn)
        across = x * np.cos(turn) + y * np.sin(turn) + along**2 * random.uniform(-0.006, 0.006)
        across += random.uniform(0, 6) * np.sin(along / random.uniform(15, 40))
        inside = width / 2 - np.abs(across - random.uniform(-width / 2 - 50, width / 2 + 50))
        band = np.clip(inside / random.uniform(2, 8) + 0.5, 0, 1)[..., None]
        others = [tissue[random.integers(len(tissue))] for _ in range(more)]
        turned = [np.rot90(other, random.integers(4)) for other in others]
        layers = [-np.log10((layer + 1.0) / 256) for layer in (rgb, *turned)]
        shared = np.min([layer[..., 1] for layer in layers], axis=0) > _TISSUE_DENSITY
        if (shared & (band[..., 0] > 0.5)).mean() >= LEAST_FOLDED:
            return band, layers


KINDS: dict[str, dict[str, Make]] = {
    "out_of_focus": {"defocused by 4 to 7 um": defocus, "shaken by 8 to 14 um": shaken},
    "bubble": {"oval bubbles with two walls": oval_bubble, "curved coverslip edges": curved_edge},
    "burnt": {"charred rims": charred},
    "pen": {f"{name} ink": ink_arc(colour) for name, colour in INKS.items()},
}
"""By the name of the check that is to find them."""


def _axes(rgb: UInt8Array) -> tuple[Plane, Plane]:
    """(y, x) float64 [h, w] in pixels from the middle."""
    high, wide = rgb.shape[:2]
    y, x = np.mgrid[:high, :wide].astype(np.float64)
    return y - high / 2, x - wide / 2


def _convolved(rgb: UInt8Array, kernel: Plane) -> UInt8Array:
    """``rgb`` with ``kernel`` [h, w], centred, by FFT over the tile and its mirror images."""
    high, wide = rgb.shape[:2]
    padded = np.pad(rgb.astype(np.float64), ((high // 2,) * 2, (wide // 2,) * 2, (0, 0)), "reflect")
    whole = np.zeros(padded.shape[:2])
    whole[: kernel.shape[0], : kernel.shape[1]] = kernel / kernel.sum()
    whole = np.roll(whole, (-(high // 2), -(wide // 2)), axis=(0, 1))
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(whole)[..., None]
    blurred = np.fft.irfft2(spectrum, padded.shape[:2], axes=(0, 1))
    return _bytes(blurred[high // 2 : -(high // 2), wide // 2 : -(wide // 2)])


def _bytes(pixels: Plane) -> UInt8Array:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
