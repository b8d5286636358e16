"""Artefacts made on real tiles, each in a way that set no limit of the product's checks.

The limits were set with Gaussian blur, round bubbles with one wall, straight grey bands, and tissue
darkened in smooth patches or under a brown band; ink in eight colours as straight strokes.
"""

from __future__ import annotations

from collections.abc import Callable

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
