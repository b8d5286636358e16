"""Regions of one level put together from its encoded tiles, each decoded once."""

from __future__ import annotations

import functools
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from pathgene_rt.errors import FileAccessError, SlideReadError, TileDecodeError
from pathgene_rt.files import reason
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.encoded_region import EncodedLevel, EncodedRegion
from pathgene_rt.slides.shared_handle import HandleClosedError, SharedHandle
from pathgene_rt.slides.tiff.decode_cache import DecodeCache
from pathgene_rt.slides.tiff.jpeg import SCALES, JpegTiles
from pathgene_rt.slides.tiff.layout import TiledLevel

UNKNOWN = -1
"""A count of bytes that is known when the tile is read; it may then turn out to be missing."""


class ByteSource(Protocol):
    """What encoded tiles are read from, by several threads at once."""

    def read(self, offset: int, count: int, /) -> bytes:
        """``count`` bytes from ``offset`` on, fewer where the file ends; of ``UNKNOWN``, all there
        are of a tile. Raises OSError, TileDecodeError, SlideReadError."""

    def close(self) -> None: ...


class EncodedTiles:
    """The encoded tiles of one level. Every method may be called from any thread.

    An encoded tile of which a region covers a part only is kept in ``cache`` for the regions beside
    it, so that it is decoded once if they are read in
    :func:`~pathgene_rt.tiles.read_order.locality_order`. One that a region covers wholly is decoded
    straight into that region where it lies there in one piece, and not kept.
    """

    def __init__(
        self,
        slide_id: str,
        level: int,
        layout: TiledLevel,
        file: SharedHandle[ByteSource],
        cache: DecodeCache,
        background: tuple[int, int, int],
    ) -> None:
        self.layout = layout
        self._count = len(layout.offsets) // layout.planes
        self.decodes = array("I", bytes(4 * self._count))
        """How often each encoded tile was decoded."""
        # Elements of these are Python's integers, which numpy's would have to become every time.
        self._offsets = array("q", layout.offsets.tobytes())
        self._byte_counts = array("q", layout.byte_counts.tobytes())
        self._slide_id = slide_id
        self._level = level
        self._file = file
        self._cache = cache
        self._background = background
        self._of_thread = threading.local()
        codec = layout.tiles.codec if layout.planes == 1 and not layout.clipped else None
        self.encoded_level = codec and EncodedLevel(
            codec, layout.size_px, layout.tile_px, background, layout.tiles.chroma
        )
        """None where tiles are not streams that other decoders know."""

    def encoding_signature(self) -> str:
        """See :meth:`Slide.encoding_signature`."""
        present = np.flatnonzero(self.layout.byte_counts)
        if not len(present) or not isinstance(self.layout.tiles, JpegTiles):
            return ""
        with self._file as file:
            stored = self._stored(file, int(present[0]))
            return self.layout.tiles.encoding_signature(stored) if stored else ""

    def scale(self, corner: tuple[int, int], shrink: int) -> int:
        """The most that decoding can reduce a region at ``corner``, to be reduced by ``shrink``."""
        if isinstance(self.layout.tiles, JpegTiles):
            for scale in SCALES:
                if all(value % scale == 0 for value in (shrink, *corner, *self.layout.tile_px)):
                    return scale
        return 1

    def fill(self, corner: tuple[int, int], scale: int, out: UInt8Array) -> None:
        """Fill ``out`` uint8 [h, w, 3] with what begins at pixel ``corner``, at 1 / ``scale``.

        What lies outside and missing tiles become background. Raises TileDecodeError,
        SlideReadError.
        """
        layout = self.layout
        left, top = corner[0] // scale, corner[1] // scale
        wide, high = layout.tile_px[0] // scale, layout.tile_px[1] // scale
        level_right = -(-layout.size_px[0] // scale)
        level_bottom = -(-layout.size_px[1] // scale)
        right, bottom = left + out.shape[1], top + out.shape[0]
        if left < 0 or top < 0 or right > level_right or bottom > level_bottom:
            out[...] = self._background
            right, bottom = min(right, level_right), min(bottom, level_bottom)
            if right <= left or bottom <= top:
                return
        shape = (high, wide, 3)
        with self._reading() as file:
            for tile_top in range(max(0, top) // high * high, bottom, high):
                upper, lower = max(tile_top, top), min(tile_top + high, bottom)
                shown_high = min(high, level_bottom - tile_top)
                band = out[upper - top : lower - top]
                number = tile_top // high * layout.across + max(0, left) // wide - 1
                for tile_left in range(max(0, left) // wide * wide, right, wide):
                    first, last = max(tile_left, left), min(tile_left + wide, right)
                    shown_wide = min(wide, level_right - tile_left)
                    number += 1
                    if layout.clipped:
                        shape = (shown_high, shown_wide, 3)
                    target = band[:, first - left : last - left]
                    if not self._byte_counts[number]:
                        target[...] = self._background
                    elif lower - upper == shown_high and last - first == shown_wide:
                        self._decode_into(file, number, shape, target)
                    else:
                        tile = self._cache.acquire(
                            (self._level, number, scale),
                            shape,
                            shown_high * shown_wide,
                            functools.partial(self._decode, file, number),
                        )
                        target[...] = tile.pixels[
                            upper - tile_top : lower - tile_top,
                            first - tile_left : last - tile_left,
                        ]
                        self._cache.release(tile, (lower - upper) * (last - first))

    def region(self, corner: tuple[int, int], side: int) -> EncodedRegion:
        """What :meth:`fill` decodes for ``side`` pixels a side, as it is stored.

        Raises TileDecodeError, SlideReadError.
        """
        layout = self.layout
        assert self.encoded_level is not None  # nobody asks where there is none
        columns, rows = (
            range(max(0, first) // tile, -(-min(first + side, size) // tile))
            for first, size, tile in zip(corner, layout.size_px, layout.tile_px, strict=True)
        )
        streams = {}
        with self._reading() as file:
            for number in (row * layout.across + column for row in rows for column in columns):
                if self._byte_counts[number] and (stored := self._stored(file, number)):
                    try:
                        streams[number] = layout.tiles.complete(stored)
                    except ValueError as error:
                        raise self._damaged(number, str(error)) from error
        return EncodedRegion(self.encoded_level, corner, side, streams)

    @contextmanager
    def _reading(self) -> Iterator[ByteSource]:
        """The file, until the end of the block; what goes wrong there as a SlideReadError."""
        try:
            with self._file as file:
                yield file
        except HandleClosedError as error:
            raise SlideReadError(
                f"{self._slide_id}: the slide was closed; open it again"
            ) from error
        except (TileDecodeError, FileAccessError):
            raise
        except OSError as error:
            raise SlideReadError(
                f"{self._slide_id}: cannot be read ({reason(error)}); check the disk"
            ) from error

    def _decode_into(
        self,
        file: ByteSource,
        number: int,
        shape: tuple[int, int, int],
        target: UInt8Array,
    ) -> None:
        """Fill ``target`` with what lies on the level of an encoded tile of ``shape``."""
        if target.shape == shape and target.flags.c_contiguous:
            self._decode(file, number, target)
            return
        pixels = self._scratch(shape)
        self._decode(file, number, pixels)
        target[...] = pixels[: target.shape[0], : target.shape[1]]

    def _decode(self, file: ByteSource, number: int, out: UInt8Array) -> None:
        self.decodes[number] += 1
        planes = self.layout.planes
        for plane in range(planes):
            target = out if planes == 1 else np.empty((*out.shape[:2], 1), np.uint8)
            stored = self._stored(file, number + plane * self._count)
            if not stored:  # of a count that was UNKNOWN
                out[...] = self._background
                return
            try:
                self.layout.tiles.decode(stored, target)
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            if planes > 1:
                out[..., plane] = target[..., 0]

    def _stored(self, file: ByteSource, number: int) -> bytes:
        count = self._byte_counts[number]
        stored = file.read(self._offsets[number], count)
        if len(stored) < count:
            raise self._damaged(number, "the file became shorter while it was read")
        if self.layout.unwrap is None:
            return stored
        try:
            return self.layout.unwrap(stored)
        except ValueError as error:
            raise self._damaged(number, str(error)) from error

    def _damaged(self, number: int, why: str) -> TileDecodeError:
        return TileDecodeError(
            f"{self._slide_id}: encoded tile {number} of level {self._level} cannot be decoded "
            f"({why}); the file is damaged: copy or scan it again"
        )

    def _scratch(self, shape: tuple[int, int, int]) -> UInt8Array:
        """Memory of this thread, valid until its next call."""
        pixels: UInt8Array | None = getattr(self._of_thread, "pixels", None)
        if pixels is None or pixels.shape != shape:
            pixels = self._of_thread.pixels = np.empty(shape, dtype=np.uint8)
        return pixels
