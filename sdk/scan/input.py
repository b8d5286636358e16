"""What a scanner may hand over, and the refusal of everything else."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pathgene_rt.errors import ScanInputError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.options import PLAUSIBLE_MPP, TissueOptions
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.slides.limits import MAX_SIDE_PX, is_slide_size

PixelFormat = Literal["RGB", "RGBA", "BGR", "BGRA"]
"""Order of the channels in memory. Alpha is not looked at: a stage camera has none."""

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

_CHANNELS = {
    "RGB": slice(0, 3),
    "RGBA": slice(0, 3),
    "BGR": slice(2, None, -1),
    "BGRA": slice(2, None, -1),
}


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How a scan is held and judged.

    ``partial_bytes`` bounds the memory of tiles that are not whole yet (4 bytes a level-0 pixel),
    ``waiting_tiles`` how many whole tiles may wait for the encoder before a push is told that it is
    busy, ``deferred_bytes`` what is kept of tiles that look like glass until the tissue is known
    (those that find no room are encoded at once). With ``pseudonyms`` every output has the slide
    id's pseudonym in its place.
    """

    tissue: TissueOptions = field(default_factory=TissueOptions)
    partial_bytes: int = 1 << 30
    waiting_tiles: int = 256
    deferred_bytes: int = 1 << 30
    pseudonyms: Pseudonyms | None = None

    def __post_init__(self) -> None:
        for name, least in (("partial_bytes", 1), ("waiting_tiles", 1), ("deferred_bytes", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ScanInputError(f"{name} {value} is out of range; give at least {least}")


def scanned_slide(slide_id: str, mpp: float, size_px: tuple[int, int] | None) -> SlideInfo:
    """The slide as far as it is known: a side of 1 px where ``size_px`` is not.

    Raises ScanInputError.
    """
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:  # NaN too
        raise ScanInputError(f"mpp {mpp} is no microscope's scale; give {low:g} to {high:g} um/px")
    width, height = size_px or (1, 1)
    if not is_slide_size((width, height)):
        raise ScanInputError(
            f"a slide of {width} x {height} px cannot be; give sides of 1 to {MAX_SIDE_PX} px"
        )
    return SlideInfo(slide_id, (int(width), int(height)), float(mpp), (1.0,), "scan")


def checked_background(background: Colour) -> Colour:
    """``background``, three bytes. Raises ScanInputError."""
    if len(background) != 3 or not all(0 <= level <= 255 for level in background):
        raise ScanInputError(f"background {background} is no colour; give three levels of 0 to 255")
    red, green, blue = (int(level) for level in background)
    return red, green, blue


def checked_timeout(timeout: float | None) -> float | None:
    """``timeout`` in seconds, None for no limit. Raises ScanInputError."""
    if timeout is not None and not timeout >= 0:
        raise ScanInputError(f"timeout {timeout} is out of range; give seconds, or None to wait")
    return None if timeout == math.inf else timeout


def rgb_view(pixels: Any, pixel_format: PixelFormat) -> UInt8Array:
    """A view uint8 [h, w, 3] in the order red, green, blue of ``pixels``. Raises ScanInputError."""
    channels = _CHANNELS.get(pixel_format)
    if channels is None:
        known = ", ".join(_CHANNELS)
        raise ScanInputError(f"pixel format {pixel_format!r} is unknown; give one of {known}")
    depth = len(pixel_format)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        given = getattr(pixels, "dtype", type(pixels).__name__)
        raise ScanInputError(f"pixels of type {given} were pushed; give a numpy array of uint8")
    if pixels.ndim != 3 or pixels.shape[2] != depth or 0 in pixels.shape:
        raise ScanInputError(
            f"pixels of shape {list(pixels.shape)} were pushed; give [h, w, {depth}], h and w at "
            f"least 1, for {pixel_format}"
        )
    view: UInt8Array = pixels[..., channels]
    return view


def checked_corner(
    x: int, y: int, width: int, height: int, size_px: tuple[int, int] | None
) -> tuple[int, int]:
    """(``x``, ``y``) of a rectangle that lies on the slide, of ``size_px`` unless that is not known
    yet. Raises ScanInputError.
    """
    try:
        x, y = operator.index(x), operator.index(y)
    except TypeError as error:
        raise ScanInputError(
            f"the corner ({x!r}, {y!r}) is no pixel; give whole numbers"
        ) from error
    limits = size_px or (MAX_SIDE_PX, MAX_SIDE_PX)
    if min(x, y) < 0 or x + width > limits[0] or y + height > limits[1]:
        raise ScanInputError(
            f"the rectangle of {width} x {height} px at ({x}, {y}) is not on the slide of "
            f"{'at most ' if size_px is None else ''}{limits[0]} x {limits[1]} px; cut it to that"
        )
    return x, y
