"""Stored JPEG 2000 tiles (Aperio 33003 and 33005) to RGB, by OpenJPEG.

imagecodecs is used: it releases the GIL, which pylibjpeg-openjpeg and Pillow do not. It is large
(20 MB), so an optional extra, ``jpeg2000``; without it OpenSlide decodes these levels.
"""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pathgene_rt.geometry import Int32Array, UInt8Array
from pathgene_rt.slides.encoded_region import Codec

HEAD_BYTES = 64
"""Of a codestream, enough for :func:`declared_components`."""

_START_AND_SIZE = b"\xff\x4f\xff\x51"

_SIGNED = np.arange(-128, 128)
_RED_OF_CR = np.rint(1.402 * _SIGNED).astype(np.int16)
_BLUE_OF_CB = np.rint(1.772 * _SIGNED).astype(np.int16)
_GREEN_OF_CB = np.rint(65536 * (0.5 - 0.34414 * _SIGNED)).astype(np.int32)
_GREEN_OF_CR = np.rint(65536 * -0.71414 * _SIGNED).astype(np.int32)
_GREEN_OF_CB_CR = (_GREEN_OF_CB[:, None] + _GREEN_OF_CR[None, :] >> 16).astype(np.int16)
"""As OpenSlide rounds (src/make-tables.c); PIL's YCbCr is up to 1 darker."""

CHROMA = np.stack([_RED_OF_CR, _GREEN_OF_CB, _GREEN_OF_CR, _BLUE_OF_CB]).astype(np.int32)
"""int32 [4, 256]: what Cr adds to red, Cb and Cr together to green (divide the sum by 65536 and
round down), and Cb to blue."""


def decoder_is_installed() -> bool:
    """Whether the package that decodes these tiles is there."""
    return importlib.util.find_spec("imagecodecs") is not None


@dataclass(frozen=True)
class Jpeg2000Tiles:
    """How the JPEG 2000 tiles of one level are decoded: ``ycbcr`` for 33003, which hold Y, Cb and
    Cr where 33005 holds RGB (transformed within the codestream, which OpenJPEG undoes).
    """

    ycbcr: bool

    codec: ClassVar[Codec] = "jpeg2000"

    @property
    def chroma(self) -> Int32Array | None:
        """See :class:`~pathgene_rt.slides.encoded_region.EncodedLevel`."""
        return CHROMA if self.ycbcr else None

    def complete(self, stored: bytes) -> bytes:
        """``stored``, which is a whole codestream. Raises ValueError where it is none."""
        declared_components(stored)
        return stored

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """Decode ``stored`` into ``out``, C-contiguous uint8 [h, w, 3] of the tile's size.

        Raises ValueError where it is truncated, corrupt or of another size.
        """
        import imagecodecs

        height, width = out.shape[:2]
        declared = declared_components(stored)
        if declared != [(width, height)] * 3:
            raise ValueError(f"holds components of {declared} px")
        try:
            imagecodecs.jpeg2k_decode(stored, numthreads=1, out=out)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if self.ycbcr:
            to_rgb(out)


def declared_components(stored: bytes) -> list[tuple[int, int]]:
    """(w, h) of each component that the codestream ``stored`` declares (ISO 15444-1, A.5.1).

    Read before decoding, which allocates what is declared. Raises ValueError where it is none.
    """
    if stored[:4] != _START_AND_SIZE or len(stored) < 42:
        raise ValueError("no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4I", stored[8:24])
    (count,) = struct.unpack(">H", stored[40:42])
    steps = stored[42 : 42 + 3 * min(count, 4)]
    if len(steps) < 9 or 0 in steps[1::3] or 0 in steps[2::3]:
        raise ValueError(f"a JPEG 2000 codestream of {count} components")
    return [
        (-(-right // across) - -(-left // across), -(-bottom // down) - -(-top // down))
        for across, down in zip(steps[1::3], steps[2::3], strict=True)
    ]


def to_rgb(pixels: UInt8Array) -> None:
    """Turn ``pixels`` uint8 [h, w, 3] of Y, Cb and Cr into RGB, in place."""
    light = pixels[..., 0].astype(np.int16)
    blueness, redness = pixels[..., 1].copy(), pixels[..., 2].copy()
    chroma = (_RED_OF_CR[redness], _GREEN_OF_CB_CR[blueness, redness], _BLUE_OF_CB[blueness])
    for channel, added in enumerate(chroma):
        pixels[..., channel] = np.clip(light + added, 0, 255)
