"""Slides whose levels are encoded tiles, decoded one by one."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.files import reason
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.package_versions import package_version
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.encoded_region import EncodedLevel, EncodedRegion
from pathgene_rt.slides.one_by_one import OneByOne
from pathgene_rt.slides.openslide_reader import WHITE, OpenSlideReader
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.scale import Scale
from pathgene_rt.slides.shared_handle import SharedHandle
from pathgene_rt.slides.slide import Overview
from pathgene_rt.slides.tiff.decode_cache import DecodeCache
from pathgene_rt.slides.tiff.encoded_tiles import ByteSource, EncodedTiles
from pathgene_rt.slides.tiff.layout import TiledLevel
from pathgene_rt.slides.tiff.positioned_file import JoinedFiles, PositionedFile

CACHE_BYTES = 128 << 20
"""Three rows of encoded tiles across a strip of ``tile_order.STRIP_PX``, of tiles up to 512 px
(of 1,024 px: two). Fewer tiles of larger ones are kept, and some are then decoded again."""


def slide_of_levels(
    path: Path,
    files: Sequence[Path] | ByteSource,
    levels: Sequence[TiledLevel],
    scale: Scale,
    vendor: str,
    warnings: Sequence[str],
) -> TiledSlide:
    """The slide ``path``, whose ``levels`` in ``files`` are all decoded here. Raises
    SlideOpenError."""
    width, height = levels[0].size_px
    info = SlideInfo(
        slide_id=slide_id_of(path),
        size_px=(width, height),
        mpp=scale.mpp,
        downsamples=tuple((width / one.size_px[0] + height / one.size_px[1]) / 2 for one in levels),
        vendor=vendor,
        warnings=(*scale.warnings, *warnings),
        scale_problem=scale.problem,
    )
    return TiledSlide(files, levels, info, WHITE, None)


class TiledSlide(OneByOne):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: ``CACHE_BYTES`` of decoded tiles, and a
    encoded tile and a region of each thread that reads.

    Where a level-0 corner falls between two pixels of a level, the nearest pixel is the region's
    first. OpenSlide interpolates there (its Leica reader rounds towards zero, and so do we).
    """

    def __init__(
        self,
        source: Sequence[Path] | ByteSource,
        levels: Sequence[TiledLevel | str],
        info: SlideInfo,
        background: tuple[int, int, int],
        openslide: OpenSlideReader | None,
    ) -> None:
        """The offsets of ``levels`` count in ``source``, which is closed with us, or in its files
        one after another. Those that are not tiled say why ``openslide`` reads them; it is closed
        with us.
        """
        self.info = info
        self._openslide = openslide
        file = _opened(source) if isinstance(source, Sequence) else source
        self._file = SharedHandle(file, file.close)
        cache = DecodeCache(CACHE_BYTES)
        self._levels = [
            EncodedTiles(info.slide_id, number, level, self._file, cache, background)
            if isinstance(level, TiledLevel)
            else level
            for number, level in enumerate(levels)
        ]
        self._of_thread = threading.local()

    @property
    def reader(self) -> str:
        """See :attr:`Slide.reader`."""
        packages = sorted({level.layout.tiles.package for level in self._direct})
        names = [
            f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
            if package == "zlib"
            else f"{package} {package_version(package)}"
            for package in packages
        ]
        others = [
            f"level {number}: {level}"
            for number, level in enumerate(self._levels)
            if isinstance(level, str)
        ]
        if others and self._openslide is not None:
            names.append(f"{self._openslide.reader} ({'; '.join(others)})")
        return f"encoded tiles by {', '.join(names)}"

    @property
    def is_odd(self) -> bool:
        """Whether OpenSlide reads what is not as in other files of the kind."""
        return self._openslide is not None and self._openslide.is_odd

    @property
    def decodes(self) -> tuple[int, int]:
        """How many encoded tiles were decoded, and how often in all."""
        counts = [level.decodes for level in self._direct]
        return sum(sum(map(bool, level)) for level in counts), sum(map(sum, counts))

    @property
    def _direct(self) -> list[EncodedTiles]:
        return [level for level in self._levels if isinstance(level, EncodedTiles)]

    @property
    def direct_levels(self) -> tuple[TiledLevel, ...]:
        """Where the encoded tiles lie, of the levels that are read from the source."""
        return tuple(level.layout for level in self._direct)

    @property
    def wholly_direct(self) -> bool:
        """Whether every level is read from the source, none by OpenSlide."""
        return len(self._direct) == len(self._levels)

    def encoding_signature(self, level: int) -> str:
        """See :meth:`Slide.encoding_signature`."""
        stored = self._levels[level]
        return "" if isinstance(stored, str) else stored.encoding_signature()

    def encoded_source(self, level: int) -> LevelSource | None:
        """See :meth:`Slide.encoded_source`."""
        tiles = self._levels[level]
        if isinstance(tiles, str) or tiles.encoded_level is None:
            return None
        return LevelSource(tiles, tiles.encoded_level, self.info.downsamples[level])

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
        stored = self._levels[level]
        if isinstance(stored, str):
            assert self._openslide is not None  # who reads such levels
            return self._openslide.read(
                xy_px, level, size_px, out, shrink=shrink, approximate=approximate
            )
        corner = _corner(stored.layout, xy_px, self.info.downsamples[level])
        scale = stored.scale(corner, shrink) if approximate else 1
        width, height = size_px
        if out is None:
            out = np.empty((height // shrink, width // shrink, 3), dtype=np.uint8)
        if scale == shrink:
            stored.fill(corner, scale, out)
            return out
        pixels = self._scratch((height // scale, width // scale, 3))
        stored.fill(corner, scale, pixels)
        np.copyto(out, np.asarray(Image.fromarray(pixels).reduce(shrink // scale)))
        return out

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`."""
        return read_overview(self, mpp)

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._file.close()
        if self._openslide is not None:
            self._openslide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _scratch(self, shape: tuple[int, int, int]) -> UInt8Array:
        """Memory of this thread for a region, valid until its next call."""
        pixels: UInt8Array | None = getattr(self._of_thread, "pixels", None)
        if pixels is None or pixels.shape != shape:
            pixels = self._of_thread.pixels = np.empty(shape, dtype=np.uint8)
        return pixels


def _opened(paths: Sequence[Path]) -> ByteSource:
    try:
        return PositionedFile(paths[0]) if len(paths) == 1 else JoinedFiles(paths)
    except OSError as error:
        raise SlideOpenError(f"{paths[0]}: {reason(error)}; check the path") from error


@dataclass(frozen=True)
class LevelSource:
    """A :class:`~pathgene_rt.slides.slide.EncodedSource`: ``tiles`` of a level that is
    ``downsample`` times coarser than level 0.
    """

    tiles: EncodedTiles
    level: EncodedLevel
    downsample: float

    def region(self, xy_px: tuple[int, int], side_px: int) -> EncodedRegion:
        """See :meth:`EncodedSource.region`."""
        return self.tiles.region(_corner(self.tiles.layout, xy_px, self.downsample), side_px)


def _corner(layout: TiledLevel, xy_px: tuple[int, int], downsample: float) -> tuple[int, int]:
    """The pixel of the level at level-0 ``xy_px``, perhaps outside of it."""
    x, y = xy_px[0] / downsample, xy_px[1] / downsample
    if layout.origin_px is None:
        return math.floor(x + 0.5), math.floor(y + 0.5)
    return int(x - layout.origin_px[0]), int(y - layout.origin_px[1])
