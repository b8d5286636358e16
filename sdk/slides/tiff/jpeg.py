"""Stored JPEG tiles to RGB, at full or reduced size, by libjpeg-turbo.

Of its bindings simplejpeg is used: as fast as imagecodecs (both 0.19 ms for a 240 px tile of real
tissue, most of it Huffman decoding), a fiftieth of its size, decodes at reduced size in the DCT
domain, and takes libjpeg's warnings for errors (`strict`), without which truncated tiles come out
half grey. PyTurboJPEG brings no library of its own. All release the GIL.

As libjpeg's defaults, so as OpenSlide: slow integer DCT, smooth chroma upsampling. Pixels are those
of OpenSlide to the bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.encoded_region import Codec

SCALES = (8, 4, 2)
"""Reduced sizes at which decoding is less work, not more."""

_START, _END = b"\xff\xd8", b"\xff\xd9"
_PADDING = 16
"""Bytes: TIFF writers fill up to even or aligned places after a stream's end."""

_APP0, _APP15 = 0xE0, 0xEF
_COMPRESSION_SEGMENTS = {0xDB, 0xC0, 0xC1, 0xC2}
"""Quantisation tables and frame headers: baseline, extended, progressive."""


@dataclass(frozen=True)
class JpegTiles:
    """How the JPEG tiles of one level are decoded.

    ``ycbcr`` is the TIFF's photometric, which overrides what the streams say of their colours:
    Aperio's "JPEG/RGB" tiles say nothing, and would be taken for YCbCr. ``tables`` is the TIFF's
    JPEGTables stream, which tiles without tables of their own ("abbreviated") need; else empty.
    """

    ycbcr: bool
    tables: bytes

    codec: ClassVar[Codec] = "jpeg"
    chroma: ClassVar[None] = None
    """Decoders turn colours to RGB themselves."""

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """Decode ``stored`` into ``out``, C-contiguous uint8 [h, w, 3] of the tile's size or of
        that divided by one of ``SCALES``.

        Nothing but ``out`` is allocated for pixels, whatever the stream claims. Raises ValueError
        where it is truncated, corrupt or of another size.
        """
        import simplejpeg

        height, width = out.shape[:2]
        decoded = simplejpeg.decode_jpeg(
            self._stream(stored), "RGB", min_height=height, min_width=width, buffer=out
        )
        if decoded.shape != out.shape:
            raise ValueError(f"holds {decoded.shape[1]} x {decoded.shape[0]} px")

    def complete(self, stored: bytes) -> bytes:
        """``stored`` as a JPEG stream that any decoder understands: with its tables, and saying
        what its colours are.

        Raises ValueError where it is truncated: what a GPU's decoder makes of that is not defined.
        """
        if _END not in stored[-_PADDING:]:
            raise ValueError("the JPEG stream has no end")
        return self._stream(stored)

    def _stream(self, stored: bytes) -> bytes:
        if not stored.startswith(_START):
            raise ValueError("no JPEG stream")
        return self._prefix + stored[_coded_from(stored) :]

    @cached_property
    def _prefix(self) -> bytes:
        """What stands before a tile's own segments: libjpeg believes Adobe's marker on colours."""
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([self.ycbcr])
        return _START + adobe + self.tables[2:].removesuffix(_END)

    def encoding_signature(self, stored: bytes) -> str:
        """A short name for how ``stored`` is compressed: photometric, quantisation and subsampling.

        Of one tile size, it is the same for all slides of a scanner at one quality.
        """
        digest = hashlib.sha256(bytes([self.ycbcr]))
        for marker, body in _segments(self.tables) + _segments(stored):
            if marker in _COMPRESSION_SEGMENTS:
                digest.update(body)
        return f"jpeg {digest.hexdigest()[:16]}"


def _coded_from(stored: bytes) -> int:
    """Where the segments of ``stored`` begin that are not the application's (JFIF, Adobe)."""
    at = 2
    while len(stored) >= at + 4 and stored[at] == 0xFF and _APP0 <= stored[at + 1] <= _APP15:
        at += 2 + int.from_bytes(stored[at + 2 : at + 4], "big")
    return at


def _segments(stream: bytes) -> list[tuple[int, bytes]]:
    """(marker, body) of each segment before the first scan."""
    segments = []
    at = 2
    while len(stream) >= at + 4 and stream[at] == 0xFF and stream[at + 1] not in {0xDA, 0xD9}:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segments.append((stream[at + 1], stream[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments
