"""Tiled TIFF slides (Aperio, Philips, Leica, generic), stored tile by stored tile.

OpenSlide opens each file too: for its metadata, so that a slide is the same whoever reads its
pixels, and for the levels that are stored in another way.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import threading
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.files import reason
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.decode_cache import DecodeCache
from pathgene_rt.slides.jpeg import SCALES, JpegTiles
from pathgene_rt.slides.openslide_reader import OpenSlideReader, open_with_openslide
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.positioned_file import PositionedFile
from pathgene_rt.slides.shared_handle import HandleClosedError, SharedHandle
from pathgene_rt.slides.slide import Overview
from pathgene_rt.slides.tiff_layout import TiledLevel, pyramid_levels, read_directories

CACHE_BYTES = 128 << 20
"""Three rows of stored tiles across a strip of ``tile_order.STRIP_PX``, of tiles up to 512 px
(of 1,024 px: two). Fewer tiles of larger ones are kept, and some are then decoded again."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_tiff(path: Path, mpp: float | None) -> TiffReader | OpenSlideReader | None:
    """The slide at ``path``, or None if it is no TIFF or one that OpenSlide does not know.

    Raises SlideOpenError, also for sizes that no slide has, before they are allocated;
    SlideScaleError as :func:`declared_mpp` does.
    """
    with path.open("rb") as file:
        if file.read(4) not in TIFF_STARTS:
            return None
    try:
        directories, description = read_directories(path)
    except ValueError:
        directories, description = [], ""
    slide = open_with_openslide(path, mpp)
    if slide is None:
        return None
    try:
        levels = pyramid_levels(directories, description, slide.properties)
        if not any(isinstance(level, TiledLevel) for level in levels):
            return slide
        return TiffReader(path, levels, slide)
    except BaseException:
        slide.close()
        raise


class TiffReader:
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: ``CACHE_BYTES`` of decoded tiles, and a
    stored tile and a region of each thread that reads.

    A stored tile of which a region covers a part only is kept for the regions beside it, so that it
    is decoded once if they are read in :func:`~pathgene_rt.tile_order.locality_order`. One that a
    region covers wholly is decoded straight into that region and not kept.

    Where a level-0 corner falls between two pixels of a level, the nearest pixel is the region's
    first. OpenSlide interpolates there (its Leica reader rounds towards zero, and so do we).
    """

    def __init__(
        self, path: Path, levels: list[TiledLevel | str], openslide: OpenSlideReader
    ) -> None:
        """``levels`` that are not tiled say why ``openslide`` reads them; it is closed with us."""
        self.info = openslide.info
        self._levels = levels
        self._openslide = openslide
        try:
            file = PositionedFile(path)
        except OSError as error:
            raise SlideOpenError(f"{path}: {reason(error)}; check the path") from error
        self._file = SharedHandle(file, file.close)
        self._cache = DecodeCache(CACHE_BYTES)
        self._of_thread = threading.local()
        self._count_lock = threading.Lock()
        self._decoded = 0
        self._touched = [
            bytearray(len(level.offsets) if isinstance(level, TiledLevel) else 0)
            for level in levels
        ]

    @property
    def reader(self) -> str:
        """See :attr:`Slide.reader`."""
        kinds = {type(level.tiles) for level in self._levels if isinstance(level, TiledLevel)}
        packages = ["simplejpeg" if kind is JpegTiles else "imagecodecs" for kind in kinds]
        names = [f"{package} {importlib.metadata.version(package)}" for package in sorted(packages)]
        others = [
            f"level {number}: {level}"
            for number, level in enumerate(self._levels)
            if isinstance(level, str)
        ]
        if others:
            names.append(f"{self._openslide.reader} ({'; '.join(others)})")
        return f"stored tiles by {', '.join(names)}"

    @property
    def decoded(self) -> int:
        """How often a stored tile was decoded."""
        return self._decoded

    @property
    def touched(self) -> int:
        """How many different stored tiles were wanted."""
        return sum(sum(level) for level in self._touched)

    def storage(self, level: int) -> str:
        """See :meth:`Slide.storage`."""
        tiled = self._levels[level]
        if isinstance(tiled, str) or not isinstance(tiled.tiles, JpegTiles):
            return ""
        present = np.flatnonzero(tiled.byte_counts)
        if not len(present):
            return ""
        return tiled.tiles.storage(self._stored(tiled, int(present[0])))

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        tiled = self._levels[level]
        if isinstance(tiled, str):
            return self._openslide.read(
                xy_px, level, size_px, out, shrink=shrink, approximate=approximate
            )
        corner = _corner(tiled, xy_px, self.info.downsamples[level])
        scale = _scale(tiled, corner, shrink) if approximate else 1
        width, height = size_px[0] // shrink, size_px[1] // shrink
        if out is None:
            out = np.empty((height, width, 3), dtype=np.uint8)
        if scale == shrink:
            self._fill(tiled, level, corner, scale, out)
            return out
        pixels = self._scratch("region", (size_px[1] // scale, size_px[0] // scale, 3))
        self._fill(tiled, level, corner, scale, pixels)
        np.copyto(out, np.asarray(Image.fromarray(pixels).reduce(shrink // scale)))
        return out

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`."""
        return read_overview(self, mpp)

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._file.close()
        self._openslide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill(
        self,
        tiled: TiledLevel,
        level: int,
        corner: tuple[int, int],
        scale: int,
        out: UInt8Array,
    ) -> None:
        """Fill ``out`` with what begins at ``corner`` of ``tiled``, all at 1 / ``scale``."""
        left, top = corner[0] // scale, corner[1] // scale
        wide, high = tiled.tile_px[0] // scale, tiled.tile_px[1] // scale
        level_right = -(-tiled.size_px[0] // scale)
        level_bottom = -(-tiled.size_px[1] // scale)
        right, bottom = left + out.shape[1], top + out.shape[0]
        if left < 0 or top < 0 or right > level_right or bottom > level_bottom:
            out[...] = self._openslide.background
            right, bottom = min(right, level_right), min(bottom, level_bottom)
            if right <= left or bottom <= top:
                return
        for tile_top in range(max(0, top) // high * high, bottom, high):
            upper, lower = max(tile_top, top), min(tile_top + high, bottom)
            shown_high = min(high, level_bottom - tile_top)
            for tile_left in range(max(0, left) // wide * wide, right, wide):
                first, last = max(tile_left, left), min(tile_left + wide, right)
                shown_wide = min(wide, level_right - tile_left)
                number = tile_top // high * tiled.across + tile_left // wide
                target = out[upper - top : lower - top, first - left : last - left]
                if tiled.byte_counts[number] == 0:
                    target[...] = self._openslide.background
                    continue
                self._touched[level][number] = 1
                rows, columns = lower - upper, last - first
                if rows < shown_high or columns < shown_wide:
                    tile = self._cache.acquire(
                        (level, number, scale),
                        (high, wide, 3),
                        shown_high * shown_wide,
                        functools.partial(self._decode, tiled, level, number),
                    )
                    y, x = upper - tile_top, first - tile_left
                    target[...] = tile.pixels[y : y + rows, x : x + columns]
                    self._cache.release(tile, rows * columns)
                elif rows == high and columns == wide and target.flags.c_contiguous:
                    self._decode(tiled, level, number, target)
                else:
                    pixels = self._scratch("tile", (high, wide, 3))
                    self._decode(tiled, level, number, pixels)
                    target[...] = pixels[:rows, :columns]

    def _decode(self, tiled: TiledLevel, level: int, number: int, out: UInt8Array) -> None:
        with self._count_lock:
            self._decoded += 1
        stored = self._stored(tiled, number)
        try:
            tiled.tiles.decode(stored, out)
        except ValueError as error:
            raise TileDecodeError(
                f"{self.info.slide_id}: stored tile {number} of level {level} cannot be decoded "
                f"({error}); the file is damaged: copy or scan it again"
            ) from error

    def _stored(self, tiled: TiledLevel, number: int) -> bytes:
        offset, count = int(tiled.offsets[number]), int(tiled.byte_counts[number])
        try:
            with self._file as file:
                stored = file.read(offset, count)
        except HandleClosedError as error:
            raise SlideReadError(
                f"{self.info.slide_id}: the slide was closed; open it again"
            ) from error
        except OSError as error:
            raise SlideReadError(
                f"{self.info.slide_id}: cannot be read ({reason(error)}); check the disk"
            ) from error
        if len(stored) < count:
            raise TileDecodeError(
                f"{self.info.slide_id}: the file ends within stored tile {number}; it was cut "
                "short while it was read: copy it again"
            )
        return stored

    def _scratch(self, use: str, shape: tuple[int, int, int]) -> UInt8Array:
        """Memory of this thread, valid until its next call for the same ``use``."""
        kept: UInt8Array | None = getattr(self._of_thread, use, None)
        if kept is None or kept.shape != shape:
            kept = np.empty(shape, dtype=np.uint8)
            setattr(self._of_thread, use, kept)
        return kept


def _corner(tiled: TiledLevel, xy_px: tuple[int, int], downsample: float) -> tuple[int, int]:
    """The pixel of ``tiled`` at level-0 ``xy_px``, perhaps outside of it."""
    x, y = xy_px[0] / downsample, xy_px[1] / downsample
    if tiled.origin_px is None:
        return math.floor(x + 0.5), math.floor(y + 0.5)
    return int(x - tiled.origin_px[0]), int(y - tiled.origin_px[1])


def _scale(tiled: TiledLevel, corner: tuple[int, int], shrink: int) -> int:
    """The largest reduced size that decoding can give of a region to be reduced by ``shrink``."""
    if isinstance(tiled.tiles, JpegTiles):
        for scale in SCALES:
            if all(value % scale == 0 for value in (shrink, *corner, *tiled.tile_px)):
                return scale
    return 1
