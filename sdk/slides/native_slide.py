"""Slides of formats that a shared library reads: ``pgrt_reader`` in ``pathgene_rt.h``.

What the library says is checked before anything is allocated by it. It is native code of others:
with ``isolate`` "auto" it is used in a process of its own.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.clipped_slide import ClippedSlide
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.openslide_reader import WHITE
from pathgene_rt.slides.pixel_slide import PixelSlide
from pathgene_rt.slides.pyramid import levels_of_slide
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.shared_handle import HandleClosedError, SharedHandle
from pathgene_rt.slides.tiff.compressed import TileDecoder, imagecodecs_is_installed
from pathgene_rt.slides.tiff.encoded_tiles import UNKNOWN
from pathgene_rt.slides.tiff.jpeg import JpegTiles
from pathgene_rt.slides.tiff.jpeg2000 import Jpeg2000Tiles
from pathgene_rt.slides.tiff.layout import MAX_TILE_PX, TiledLevel
from pathgene_rt.slides.tiff.reader import TiledSlide

ENTRY = "pgrt_reader_entry"
ABI_VERSION = 1
"""PGRT_ABI_VERSION of the header."""

OK, OTHER_FORMAT, TILE_DAMAGED = 0, -1, TileDecodeError.code
ONE_THREAD = 1
"""The flag PGRT_READER_ONE_THREAD."""

MAX_LEVELS = 64
MAX_TILES = 1 << 22
"""Of a level."""

_ERROR_BYTES = 512
_SLACK_BYTES = 1 << 16

_TILES: dict[int, TileDecoder] = {
    1: JpegTiles(ycbcr=True, tables=b""),
    2: JpegTiles(ycbcr=False, tables=b""),
    3: Jpeg2000Tiles(ycbcr=False),
}
"""By PGRT_TILE_JPEG, PGRT_TILE_JPEG_RGB, PGRT_TILE_JPEG2000."""


class _Level(ctypes.Structure):
    _fields_ = (
        ("width_px", c_int64),
        ("height_px", c_int64),
        ("tile_width_px", c_int32),
        ("tile_height_px", c_int32),
    )


class _Slide(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("level_count", c_uint32),
        ("tile_format", c_uint32),
        ("reserved", c_uint32),
        ("mpp", c_double),
        ("levels", POINTER(_Level)),
        ("vendor", c_char_p),
        ("warning", c_char_p),
        ("state", c_void_p),
    )


_SAID = (c_void_p, c_uint64)
"""Where a function writes what went wrong, and how many bytes of it."""


class _Reader(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char_p),
        ("suffixes", POINTER(c_char_p)),
        ("matches", ctypes.CFUNCTYPE(c_int32, c_char_p, c_char_p, c_uint64)),
        ("open", ctypes.CFUNCTYPE(c_int32, c_char_p, POINTER(_Slide), *_SAID)),
        (
            "read_tile",
            ctypes.CFUNCTYPE(
                c_int32,
                *(c_void_p, c_uint32, c_int64, c_int64),
                *(c_void_p, c_uint64, POINTER(c_uint64)),
                *_SAID,
            ),
        ),
        (
            "read_region",
            ctypes.CFUNCTYPE(
                c_int32,
                *(c_void_p, c_uint32, c_int64, c_int64, c_int32, c_int32),
                *(c_void_p, *_SAID),
            ),
        ),
        ("close", ctypes.CFUNCTYPE(None, c_void_p)),
    )


class NativeReader:
    """The reader that the shared library ``library`` has. Raises OSError if it cannot be loaded,
    ValueError if it has none of this ABI.
    """

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        try:
            entry = getattr(loaded, ENTRY)
        except AttributeError:
            raise ValueError(f"it exports no {ENTRY}") from None
        entry.restype = POINTER(_Reader)
        found = entry()
        if not found:
            raise ValueError(f"its {ENTRY} gives nothing")
        table = found.contents
        if table.abi_version != ABI_VERSION or table.struct_size < ctypes.sizeof(_Reader):
            raise ValueError(
                f"it is made for version {table.abi_version} of pathgene_rt.h, with a table of "
                f"{table.struct_size} bytes; {ABI_VERSION} and {ctypes.sizeof(_Reader)} are read"
            )
        if not (table.name and table.suffixes and table.open and table.close):
            raise ValueError("its table lacks name, suffixes, open or close")
        if not (table.read_tile or table.read_region):
            raise ValueError("its table has neither read_tile nor read_region")
        self._loaded = loaded  # as long as its functions are called
        self._table = table
        self.name = _text(table.name)
        self.suffixes = frozenset(_suffixes(table.suffixes))
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if table.flags & ONE_THREAD else nullcontext()
        )

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether ``path``, which begins with ``head``, may be of its kind."""
        if not self._table.matches:
            return path.suffix.lower() in self.suffixes
        with self._turn:
            return bool(self._table.matches(os.fsencode(path), head, len(head)))

    def open(self, path: Path, mpp: float | None) -> TiledSlide | PixelSlide | None:
        """The slide ``path``, None if it is not of its kind; ``mpp`` is the user's. Raises
        SlideOpenError."""
        slide = _Slide(struct_size=ctypes.sizeof(_Slide))
        status, said = self.call(self._table.open, os.fsencode(path), ctypes.byref(slide))
        if status == OTHER_FORMAT:
            return None
        if status != OK:
            raise SlideOpenError(
                f"{path}: {self.name} cannot open it ({said}); check the file with its maker's "
                "viewer, or ask the maker of the reader"
            )
        state = SharedHandle(slide.state, lambda: self._close(slide.state))
        try:
            return self._opened(path, slide, state, mpp)
        except ValueError as error:
            state.close()
            raise SlideOpenError(
                f"{path}: what {self.name} says of it cannot be ({error}); update the reader"
            ) from error
        except BaseException:
            state.close()
            raise

    def call(self, function: Callable[..., int], *arguments: Any) -> tuple[int, str]:
        """The status that ``function`` gives, and what it says of it."""
        said = ctypes.create_string_buffer(_ERROR_BYTES)
        with self._turn:
            status = function(*arguments, said, _ERROR_BYTES)
        return status, _text(said.value) or f"error {status}"

    def _close(self, state: int | None) -> None:
        with self._turn:
            self._table.close(state)

    def _opened(
        self, path: Path, slide: _Slide, state: SharedHandle[int | None], mpp: float | None
    ) -> TiledSlide | PixelSlide:
        if not 0 < slide.level_count <= MAX_LEVELS or not slide.levels:
            raise ValueError(f"{slide.level_count} levels")
        declared = slide.levels[: slide.level_count]
        sizes = [checked_size(path, (one.width_px, one.height_px)) for one in declared]
        kept = levels_of_slide(sizes)
        stated = f"{slide.mpp:.6g}" if slide.mpp else None
        scale = settled_scale(stated, stated, mpp)
        width, height = sizes[0]
        info = SlideInfo(
            slide_id=slide_id_of(path),
            size_px=sizes[0],
            mpp=scale.mpp,
            downsamples=tuple((width / sizes[k][0] + height / sizes[k][1]) / 2 for k in kept),
            vendor=_text(slide.vendor) or self.name,
            warnings=(*scale.warnings, *filter(None, [_text(slide.warning)])),
            scale_problem=scale.problem,
        )
        if not self._table.read_tile:
            levels = [(number, sizes[number]) for number in kept]
            return _RegionSlide(self, self._table.read_region, state, levels, info)
        tiles = _TILES.get(slide.tile_format)
        if tiles is None:
            raise ValueError(f"tiles of format {slide.tile_format}")
        if isinstance(tiles, Jpeg2000Tiles) and not imagecodecs_is_installed():
            raise SlideOpenError(
                f"{path}: its tiles are JPEG 2000; run pip install 'pathgene-rt[jpeg2000]'"
            )
        tiled = [_tiled(number, declared[number], tiles) for number in kept]
        source = _Tiles(
            self,
            self._table.read_tile,
            state,
            dict(zip(kept, tiled, strict=True)),
            info.slide_id,
        )
        return _TileSlide(source, tiled, info, self.name)


def _tiled(number: int, declared: _Level, tiles: TileDecoder) -> TiledLevel:
    """Raises ValueError."""
    size, tile = (
        (int(declared.width_px), int(declared.height_px)),
        (int(declared.tile_width_px), int(declared.tile_height_px)),
    )
    if min(tile) <= 0 or tile[0] * tile[1] > MAX_TILE_PX:
        raise ValueError(f"tiles of {tile[0]} x {tile[1]} px")
    count = math.prod(-(-side // part) for side, part in zip(size, tile, strict=True))
    if count > MAX_TILES:
        raise ValueError(f"{count} tiles")
    places = (np.int64(number) << np.int64(32)) + np.arange(count, dtype=np.int64)
    return TiledLevel(size, tile, places, np.full(count, UNKNOWN, np.int64), tiles)


@dataclass(frozen=True)
class _Call:
    """A function of a reader on its open slide."""

    reader: NativeReader
    function: Callable[..., int]
    state: SharedHandle[int | None]

    def __call__(self, slide_id: str, what: str, *arguments: Any) -> None:
        """Raises TileDecodeError, SlideReadError."""
        with self.using(slide_id) as state:
            status, said = self.reader.call(self.function, state, *arguments)
        if status == OK:
            return
        told = f"{slide_id}: {self.reader.name} cannot read {what} ({said})"
        if status == TILE_DAMAGED:
            raise TileDecodeError(f"{told}; the file is damaged: copy or scan it again")
        raise SlideReadError(f"{told}; check the file and the disk")

    @contextmanager
    def using(self, slide_id: str) -> Iterator[int | None]:
        try:
            with self.state as state:
                yield state
        except HandleClosedError as error:
            raise SlideReadError(f"{slide_id}: the slide was closed; open it again") from error


class _Tiles:
    """What a reader gives of encoded tiles, as a file that they lie in: at the number of the level
    in the upper 32 bits of a place, and their own in the lower."""

    def __init__(
        self,
        reader: NativeReader,
        function: Callable[..., int],
        state: SharedHandle[int | None],
        levels: dict[int, TiledLevel],
        slide_id: str,
    ) -> None:
        self._call = _Call(reader, function, state)
        self._levels = levels
        self._slide_id = slide_id
        largest = max(level.tile_px[0] * level.tile_px[1] for level in levels.values())
        self._capacity = 2 * 3 * largest + _SLACK_BYTES
        self._of_thread = threading.local()

    def read(self, place: int, count: int) -> bytes:  # noqa: ARG002 - known when it was read
        """The tile at ``place``, empty if there is none. Raises TileDecodeError, SlideReadError."""
        number, tile = place >> 32, place & 0xFFFFFFFF
        row, column = divmod(tile, self._levels[number].across)
        buffer = getattr(self._of_thread, "buffer", None)
        if buffer is None:
            buffer = self._of_thread.buffer = ctypes.create_string_buffer(self._capacity)
        size = c_uint64(0)
        what = f"tile {tile} of level {number}"
        self._call(
            self._slide_id,
            what,
            *(number, column, row, buffer, self._capacity, ctypes.byref(size)),
        )
        if size.value > self._capacity:
            raise TileDecodeError(f"{self._slide_id}: {what} claims {size.value} bytes")
        return ctypes.string_at(buffer, size.value)

    def close(self) -> None:
        self._call.state.close()


class _TileSlide(TiledSlide):
    """Its tiles come from a library, and are decoded here."""

    def __init__(
        self, source: _Tiles, levels: Sequence[TiledLevel], info: SlideInfo, name: str
    ) -> None:
        super().__init__(source, levels, info, WHITE, None)
        self._name = name

    @property
    def reader(self) -> str:
        return f"{self._name}, {super().reader}"


class _RegionSlide(ClippedSlide):
    """Its pixels come from a library."""

    def __init__(
        self,
        reader: NativeReader,
        function: Callable[..., int],
        state: SharedHandle[int | None],
        levels: Sequence[tuple[int, tuple[int, int]]],
        info: SlideInfo,
    ) -> None:
        self.info, self.reader = info, reader.name
        self._call = _Call(reader, function, state)
        self._numbers = [number for number, _ in levels]
        self.level_sizes_px = [size_px for _, size_px in levels]

    def read_part(self, x: int, y: int, width: int, height: int, level: int) -> UInt8Array:
        """See :meth:`ClippedSlide.read_part`."""
        number, part = self._numbers[level], np.empty((height, width, 3), np.uint8)
        self._call(
            self.info.slide_id,
            f"the region at ({x}, {y}) of level {number}",
            *(number, x, y, width, height, part.ctypes.data),
        )
        return part

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._call.state.close()


def _text(given: bytes | None) -> str:
    return " ".join((given or b"").decode("utf-8", "replace").split())


def _suffixes(given: Any) -> Iterator[str]:
    for number in range(64):
        if given[number] is None:
            return
        yield _text(given[number])
    raise ValueError("its list of suffixes does not end with NULL")
