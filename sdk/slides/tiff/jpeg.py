"""Stored JPEG tiles to RGB, at full or reduced size, by libjpeg-turbo.

Of its bindings simplejpeg is used: as fast as imagecodecs (both 0.19 ms for a 240 px tile of real
tissue, most of it Huffman decoding), a fiftieth of its size, decodes at reduced size in the DCT
domain, and takes libjpeg's warnings for errors (`strict`), without which truncated tiles come out
half grey. PyTurboJPEG brings no library of its own. All release the GIL.

What costs no pixel is no damage: a missing end marker, and a few stray bytes before a marker.

As libjpeg's defaults, so as OpenSlide: slow integer DCT, smooth chroma upsampling. Pixels are those
of OpenSlide to the bit.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
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

_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd([0-79])")
MOST_STRAY_BYTES = 16
"""Before a marker: alignment. A scan that was overwritten leaves a hundred and more over."""

_RESTART, _LAST_END = rb"\xff[\xd0-\xd7]", rb"\xff\xd9[\s\S]{0,15}\Z"
_APP0, _APP15 = 0xE0, 0xEF
_SCAN = 0xDA
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
MAX_SCANS = 100
"""Of one stream; progressive ones have about ten."""

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
    package: ClassVar[str] = "simplejpeg"
    chroma: ClassVar[None] = None
    """Decoders turn colours to RGB themselves."""

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """Decode ``stored`` into ``out``, C-contiguous uint8 [h, w, 3] of the tile's size or of
        that divided by one of ``SCALES``; [h, w, 1] of a grey stream.

        Nothing but ``out`` is allocated for pixels, whatever the stream claims. Raises ValueError
        where it is truncated, corrupt or of another size.
        """
        stream = self._stream(stored)
        if _END not in stored[-_PADDING:]:
            stream += _END
        _decode_but_for_strays(stream, out)

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
        coded_from = _coded_from(stored)
        _require_few_scans(stored, coded_from)
        return self._prefix + stored[coded_from:]

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


def _decode(stream: bytes, out: UInt8Array) -> None:
    """Decode into ``out``. Raises ValueError, for libjpeg's warnings too: then ``out`` is filled
    in part.
    """
    import simplejpeg

    height, width, samples = out.shape
    colours = "RGB" if samples == 3 else "GRAY"
    decoded = simplejpeg.decode_jpeg(
        stream, colours, min_height=height, min_width=width, buffer=out
    )
    if decoded.shape != out.shape:
        raise ValueError(f"holds {decoded.shape[1]} x {decoded.shape[0]} px")


@dataclass(frozen=True)
class _Stray:
    """So many ``bytes`` too many before each restart marker, or before the end."""

    bytes: int
    before_restarts: bool


def _strays(warning: str) -> list[_Stray]:
    """What may have made libjpeg give ``warning``, in which it counts all stray bytes so far."""
    found = _STRAY.match(warning)
    if found is None:
        return []
    count, marker = int(found[1]), found[2]
    if marker == "9":
        return [_Stray(count, before_restarts=False)] if count <= MOST_STRAY_BYTES else []
    # Restart markers go round in eights: this one is the first, ninth, ... of its number.
    places = range(int(marker) + 1, count + 1, 8)
    each = [count // place for place in places if count % place == 0]
    return [_Stray(one, before_restarts=True) for one in each if one <= MOST_STRAY_BYTES]


def _decode_but_for_strays(stream: bytes, out: UInt8Array, tries: int = 2) -> None:
    """As :func:`_decode`, without the stray bytes of ``stream``: before the restart markers, then
    before the end.
    """
    try:
        _decode(stream, out)
    except ValueError as error:
        strays = _strays(str(error)) if tries else []
        for stray in strays:
            with suppress(ValueError):
                _decode_but_for_strays(_without(stray, stream), out, tries - 1)
                return
        raise


def _without(stray: _Stray, stream: bytes) -> bytes:
    scan = stream.rindex(bytes([0xFF, _SCAN]))
    before = _RESTART if stray.before_restarts else _LAST_END
    cut = re.compile(rb"[\s\S]{%d}(?=%s)" % (stray.bytes, before))
    return stream[:scan] + cut.sub(b"", stream[scan:])


def _coded_from(stored: bytes) -> int:
    """Where the segments of ``stored`` begin that are not the application's (JFIF, Adobe)."""
    at = 2
    while len(stored) >= at + 4 and stored[at] == 0xFF:
        marker = stored[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif _APP0 <= marker <= _APP15:
            at += 2 + int.from_bytes(stored[at + 2 : at + 4], "big")
        else:
            break
    return at


def _require_few_scans(stored: bytes, at: int) -> None:
    """Raise ValueError if ``stored``, whose segments begin ``at``, is of more than MAX_SCANS: each
    goes over all pixels. A sequential frame whose first scan is of all components has no others.
    """
    components, sequential = 0, False
    while len(stored) >= at + 10 and stored[at] == 0xFF:
        marker = stored[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _SCAN:
            if sequential and stored[at + 4] == components:
                return
            break
        if marker in _FRAMES:
            components, sequential = stored[at + 9], marker in (0xC0, 0xC1)
        at += 2 + int.from_bytes(stored[at + 2 : at + 4], "big")
    scans = stored.count(bytes([0xFF, _SCAN]))
    if scans > MAX_SCANS:
        raise ValueError(f"a JPEG stream of {scans} scans, up to {MAX_SCANS} are decoded")


def _segments(stream: bytes) -> list[tuple[int, bytes]]:
    """(marker, body) of each segment before the first scan."""
    segments = []
    at = 2
    while len(stream) >= at + 4 and stream[at] == 0xFF and stream[at + 1] not in {_SCAN, 0xD9}:
        if stream[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segments.append((stream[at + 1], stream[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments
