"""Encoded tiles that are neither JPEG nor JPEG 2000 as Aperio has it: bytes, packed or not, and the
pictures of newer codecs.

A decoder writes into memory of the tile's size that its caller gives, whatever a stream claims.
zlib is Python's own; imagecodecs has a faster one and the others, in the extra ``jpeg2000``.
"""

from __future__ import annotations

import functools
import importlib.util
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from pathgene_rt.geometry import Int32Array, UInt8Array
from pathgene_rt.slides.encoded_region import Codec
from pathgene_rt.slides.tiff.jpeg2000 import to_rgb

_JPEG_END, _PADDING = b"\xff\xd9", 16

Packing = Literal["none", "deflate", "lzw", "packbits", "zstd", "lzma"]
Picture = Literal["jpegxl", "webp", "jpegls"]


class TileDecoder(Protocol):
    """How the encoded tiles of one level are decoded. Thread-safe, and frees the GIL."""

    @property
    def codec(self) -> Codec | None:
        """What other decoders (a GPU's) call it; None where they have none."""

    @property
    def package(self) -> str:
        """The package that decodes, for the report."""

    @property
    def chroma(self) -> Int32Array | None:
        """See :class:`~pathgene_rt.slides.encoded_region.EncodedLevel`."""

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """Decode ``stored`` into ``out``, C-contiguous uint8 [h, w, samples] of the tile's size.

        Raises ValueError where it is truncated, corrupt or of another size.
        """

    def complete(self, stored: bytes) -> bytes:
        """``stored`` as a stream that any decoder of ``codec`` understands. Raises ValueError where
        it is truncated, or there is no such codec.
        """


def imagecodecs_is_installed() -> bool:
    """Whether the package that decodes most of these is there."""
    return importlib.util.find_spec("imagecodecs") is not None


@functools.cache
def _codec(name: str) -> Callable[..., Any]:
    """imagecodecs' decoder, which is looked up in a module that loads its parts when asked."""
    import imagecodecs

    decode: Callable[..., Any] = getattr(imagecodecs, f"{name}_decode")
    return decode


def _inflated(stored: bytes, flat: UInt8Array) -> int:
    """Unpack zlib's format into ``flat`` uint8 [n]; how many bytes there were for it. Raises
    ValueError.

    libdeflate takes a third of zlib's time, but only whole streams that are no longer than
    ``flat``; of others zlib gives what there is.
    """
    if _has_libdeflate():
        with suppress(RuntimeError):
            return len(_codec("deflate")(stored, out=flat))
    try:
        return _copied(zlib.decompressobj().decompress(stored, len(flat)), flat)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _copied(content: bytes, flat: UInt8Array) -> int:
    flat[: len(content)] = np.frombuffer(content, np.uint8)
    return len(content)


@functools.cache
def _has_libdeflate() -> bool:
    if not imagecodecs_is_installed():
        return False
    import imagecodecs

    return bool(imagecodecs.DEFLATE.available)


class _Undeclared:
    """What only this process decodes."""

    codec: Codec | None = None
    chroma: Int32Array | None = None

    def complete(self, stored: bytes) -> bytes:  # noqa: ARG002 - whatever it is
        """See :meth:`TileDecoder.complete`."""
        raise ValueError("no stream that other decoders know")


@dataclass(frozen=True)
class PackedTiles(_Undeclared):
    """Tiles of bytes, row by row. ``differenced``: each sample is stored less the one to its left
    (TIFF's predictor 2). ``ycbcr``: they are Y, Cb and Cr.
    """

    packing: Packing
    differenced: bool = False
    ycbcr: bool = False

    @property
    def package(self) -> str:
        """See :attr:`TileDecoder.package`."""
        if self.packing == "none" or (self.packing == "deflate" and not _has_libdeflate()):
            return "zlib"
        return "imagecodecs"

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """See :meth:`TileDecoder.decode`."""
        flat = out.reshape(-1)
        count = self._unpack(stored, flat)
        if count < len(flat):
            raise ValueError(f"holds {count} of {len(flat)} bytes")
        if self.differenced:
            np.add.accumulate(out, axis=1, dtype=np.uint8, out=out)
        if self.ycbcr:
            to_rgb(out)

    def _unpack(self, stored: bytes, flat: UInt8Array) -> int:
        """Fill ``flat`` uint8 [n]; how many bytes there were for it. Raises ValueError."""
        if self.packing == "none":
            return _copied(stored[: len(flat)], flat)
        if self.packing == "deflate":
            return _inflated(stored, flat)
        try:
            return len(_codec(self.packing)(stored, out=flat))
        except RuntimeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class PictureTiles(_Undeclared):
    """Tiles that are pictures of ``picture``'s codec and say their own size and colours; with
    ``ycbcr`` the decoder gives Y, Cb and Cr.
    """

    picture: Picture
    ycbcr: bool = False

    package = "imagecodecs"

    def decode(self, stored: bytes, out: UInt8Array) -> None:
        """See :meth:`TileDecoder.decode`."""
        options = {"numthreads": 1} if self.picture == "jpegxl" else {}
        target = out[..., 0] if out.shape[2] == 1 else out
        if self.picture == "jpegls" and _JPEG_END not in stored[-_PADDING:]:
            stored += _JPEG_END  # which CharLS looks for without end
        try:
            # It compares what the stream declares with the shape before it decodes.
            _codec(self.picture)(stored, out=target, **options)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if self.ycbcr:
            to_rgb(out)
