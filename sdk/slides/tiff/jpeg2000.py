"""Stored JPEG 2000 tiles to RGB, by OpenJPEG: codestreams (Aperio, DICOM), or in boxes (JP2).

imagecodecs is used: it releases the GIL, which pylibjpeg-openjpeg and Pillow do not. It is large
(20 MB), so an optional extra, ``jpeg2000``; without it OpenSlide decodes these levels.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pathgene_rt.geometry import Int32Array, UInt8Array
from pathgene_rt.slides.encoded_region import Codec

HEAD_BYTES = 64
"""Of a codestream, enough for :func:`declared_components`."""

MAX_TILES = 4096
MAX_DECOMPOSITIONS = 12
MAX_PACKETS = 1 << 17
"""Of one stored tile. Scanners write one precinct a resolution and up to a dozen layers: hundreds
in all."""

_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
_FIRST_TILE_PART = struct.pack(">H", _SOT)
_MAX_KEPT_BYTES = 4096
"""Of a main header that is remembered: a hundred is usual."""
_SIGNATURE_BOX = b"\x00\x00\x00\x0cjP  "
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


@dataclass(frozen=True)
class Jpeg2000Tiles:
    """How the JPEG 2000 tiles of one level are decoded: ``ycbcr`` for Aperio's 33003, which hold Y,
    Cb and Cr where others hold RGB (transformed within the codestream, which OpenJPEG undoes).
    """

    ycbcr: bool

    codec: ClassVar[Codec] = "jpeg2000"
    package: ClassVar[str] = "imagecodecs"

    @property
    def chroma(self) -> Int32Array | None:
        """See :class:`~pathgene_rt.slides.encoded_region.EncodedLevel`."""
        return CHROMA if self.ycbcr else None

    def complete(self, stored: bytes) -> bytes:
        """The whole codestream of ``stored``. Raises ValueError where it is none, or takes more
        work than a tile should."""
        stream = codestream_of(stored)
        checked_components(stream)
        return stream

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """Decode ``stored`` into ``out``, C-contiguous uint8 [h, w, 3] of the tile's size, or
        [h, w, 1] of one component.

        Raises ValueError where it is truncated, corrupt or of another size.
        """
        import imagecodecs

        height, width, samples = out.shape
        stream = codestream_of(stored)
        declared = checked_components(stream)
        if declared != ((width, height),) * samples:
            raise ValueError(f"holds components of {list(declared)} px")
        try:
            imagecodecs.jpeg2k_decode(
                stream, numthreads=1, out=out[..., 0] if samples == 1 else out
            )
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if self.ycbcr:
            to_rgb(out)


def codestream_of(stored: bytes) -> bytes:
    """The codestream in ``stored``: itself, or in the boxes of a JP2 or JPH file (ISO 15444-1,
    I.4). What those say of colours, the file around says as well. Raises ValueError.
    """
    if not stored.startswith(_SIGNATURE_BOX):
        return stored
    at = 0
    while at + 16 <= len(stored):
        length, kind = struct.unpack(">I4s", stored[at : at + 8])
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stored[at + 8 : at + 16])
            head = 16
        end = len(stored) if length == 0 else at + length
        if kind == b"jp2c":
            return stored[at + head : end]
        if end <= at:
            break
        at = end
    raise ValueError("a JPEG 2000 file without a codestream")


def checked_components(stored: bytes) -> tuple[tuple[int, int], ...]:
    """What the codestream ``stored`` declares (:func:`declared_components`), once it is clear that
    it does not claim too many packets (:func:`require_few_packets`). Raises ValueError.

    Tiles of a level mostly have one main header, which is looked at once; the headers of tile-parts
    are looked at in every tile.
    """
    end = stored.find(_FIRST_TILE_PART, 2, _MAX_KEPT_BYTES)
    main = None if end < 0 else _main_header(stored[:end])
    if main is None:
        declared = tuple(declared_components(stored))
        require_few_packets(stored)
        return declared
    declared, layers = main
    require_few_packets(stored, end, layers)
    return declared


@functools.lru_cache(maxsize=64)
def _main_header(head: bytes) -> tuple[tuple[tuple[int, int], ...], int] | None:
    """What ``head``, a codestream up to its first tile-part, declares, and its default number of
    layers. None if segments do not end where it does: what looks like the mark of a tile-part lies
    within one. Raises ValueError.
    """
    at = 2
    while at + 4 <= len(head):
        marker, length = struct.unpack(">HH", head[at : at + 4])
        if marker == _SOD or length < 2:
            return None
        at += 2 + length
    if at != len(head):
        return None
    return tuple(declared_components(head)), require_few_packets(head)


def declared_components(stored: bytes) -> list[tuple[int, int]]:
    """(w, h) of each component that the codestream ``stored`` declares (ISO 15444-1, A.5.1).

    Read before decoding, which allocates what is declared. Raises ValueError where it is none.
    """
    if stored[:4] != _START_AND_SIZE or len(stored) < 42:
        raise ValueError("no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4I", stored[8:24])
    (count,) = struct.unpack(">H", stored[40:42])
    steps = stored[42 : 42 + 3 * min(count, 4)]
    if not steps or len(steps) % 3 or 0 in steps[1::3] or 0 in steps[2::3]:
        raise ValueError(f"a JPEG 2000 codestream of {count} components")
    return [
        (-(-right // across) - -(-left // across), -(-bottom // down) - -(-top // down))
        for across, down in zip(steps[1::3], steps[2::3], strict=True)
    ]


def require_few_packets(stored: bytes, at: int = 2, layers: int = 1) -> int:
    """Raise ValueError if the codestream ``stored`` claims more than MAX_PACKETS or MAX_TILES, as
    far as its segments from byte ``at`` on say, where ``layers`` are the default. Returns the
    default after them.

    A packet is one quality layer of one precinct of one component at one resolution (ISO 15444-1,
    B.10): an empty one takes a bit of the file, and memory and time of its own to decode. Every
    default of coding (COD, COC) counts, also those within tile-parts (A.4 to A.6).
    """
    right, bottom, left, top, wide, high = struct.unpack(">6I", stored[8:32])
    tiles = -(-right // max(wide, 1)) * -(-bottom // max(high, 1))
    if tiles > MAX_TILES:
        raise ValueError(f"a JPEG 2000 codestream of {tiles} tiles")
    size = (min(wide, right - left), min(high, bottom - top))
    (components,) = struct.unpack(">H", stored[40:42])
    for marker, body in _coding_defaults(stored, at):
        if marker == _COD:
            (layers,) = struct.unpack(">H", body[2:4])
            coding, precincts_stated = body[5:], body[0] & 1
        else:
            skipped = 1 if components < 257 else 2
            coding, precincts_stated = body[skipped + 1 :], body[skipped] & 1
        if len(coding) < 5 or coding[0] > MAX_DECOMPOSITIONS:
            raise ValueError("a JPEG 2000 codestream of too many decompositions")
        precincts = 0
        for resolution in range(coding[0] + 1):
            stated = coding[5 + resolution : 6 + resolution] if precincts_stated else b"\xff"
            if not stated:
                raise ValueError("a JPEG 2000 codestream that is cut short")
            scale = 1 << (coding[0] - resolution)
            steps = (stated[0] & 15, stated[0] >> 4)
            across, down = (
                -(-side // scale >> step) + 1 for side, step in zip(size, steps, strict=True)
            )
            precincts += across * down
        if layers * precincts * components * tiles > MAX_PACKETS:
            raise ValueError(
                f"a JPEG 2000 codestream of {layers} layers and {tiles * precincts} precincts"
            )
    return layers


def _coding_defaults(stored: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of each COD and COC from the segment at byte ``at`` on, of the main header and
    of the tile-parts'."""
    end = 0
    while at + 4 <= len(stored):
        marker, length = struct.unpack(">HH", stored[at : at + 4])
        if marker == _SOD:
            if end <= at:  # the last tile-part says 0: up to the end
                return
            at = end
            continue
        if length < 2:
            return
        body = stored[at + 4 : at + 2 + length]
        if marker in (_COD, _COC):
            if len(body) < 10 - 4 * (marker == _COC):
                raise ValueError("a JPEG 2000 codestream that is cut short")
            yield marker, body
        elif marker == _SOT and len(body) >= 8:
            end = at + int(struct.unpack(">I", body[2:6])[0])
        at += 2 + length


def to_rgb(pixels: UInt8Array) -> None:
    """Turn ``pixels`` uint8 [h, w, 3] of Y, Cb and Cr into RGB, in place."""
    light = pixels[..., 0].astype(np.int16)
    blueness, redness = pixels[..., 1].copy(), pixels[..., 2].copy()
    chroma = (_RED_OF_CR[redness], _GREEN_OF_CB_CR[blueness, redness], _BLUE_OF_CB[blueness])
    for channel, added in enumerate(chroma):
        pixels[..., channel] = np.clip(light + added, 0, 255)
