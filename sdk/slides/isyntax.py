"""Philips iSyntax slides, through pyisyntax (libisyntax).

libisyntax crashes in every thread but the one that called it first (it keeps memory for that one
alone), and on damaged files: one thread makes all calls, in a process of its own (``registry``). No
file of a scanner could be had here, and every slide's report says so.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError, SlideReadError, said_by
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.clipped_slide import ClippedSlide
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.pyramid import levels_of_slide
from pathgene_rt.slides.scale import settled_scale

UNTRIED = (
    "read by pyisyntax, which was not tried here on a file of a scanner: compare the slide's "
    "pictures with the Image Management System"
)


_MAX_LEVELS = 16
"""As many as libisyntax has room for; it reads more all the same."""

_UNKNOWN_MPP = (1.0, 1.0)
"""What libisyntax says where the file says nothing."""

_HEADER_END = b"\x04"
_TABLE_OF_PLACES = struct.pack("<HH", 0x301D, 0x2015)
_OPEN_LENGTH = 0xFFFFFFFF
_PLACE = np.dtype(
    {"names": ["at", "bytes"], "formats": ["<u8", "<u8"], "offsets": [16, 32], "itemsize": 40}
)

IS_INSTALLED = importlib.util.find_spec("isyntax") is not None


def open_isyntax(path: Path, mpp: float | None) -> ISyntaxSlide:
    """The slide in the iSyntax file ``path``. Raises SlideOpenError."""
    return _thread().submit(_opened, path, mpp).result()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """The one thread of this process that calls libisyntax."""
    return ThreadPoolExecutor(1, "pathgene-rt-isyntax")


def _opened(path: Path, mpp: float | None) -> ISyntaxSlide:
    from isyntax import ISyntax

    try:
        _require_whole(path)
        handle = ISyntax.open(path)
    except Exception as error:
        raise _refused(path, error) from error
    try:
        return ISyntaxSlide(handle, path, mpp)
    except SlideOpenError:
        handle.close()
        raise
    except Exception as error:
        handle.close()
        raise _refused(path, error) from error


class ISyntaxSlide(ClippedSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. One thread reads at a time."""

    def __init__(self, handle: Any, path: Path, mpp: float | None) -> None:
        """``handle`` is an ``isyntax.ISyntax``, closed by :meth:`close`."""
        self._handle: Any = handle
        if not 0 < handle.level_count <= _MAX_LEVELS:
            raise ValueError(f"it claims {handle.level_count} levels")
        sizes = [(int(width), int(height)) for width, height in handle.level_dimensions]
        size_px = checked_size(path, sizes[0])
        self._numbers = levels_of_slide(sizes)
        self.level_sizes_px = [sizes[number] for number in self._numbers]
        said = (handle.mpp_x, handle.mpp_y)
        x, y = (None if said == _UNKNOWN_MPP else f"{one:.9g}" for one in said)
        scale = settled_scale(x, y, mpp)
        self.info = SlideInfo(
            slide_id=slide_id_of(path),
            size_px=size_px,
            mpp=scale.mpp,
            downsamples=tuple(float(handle.level_downsamples[one]) for one in self._numbers),
            vendor="philips",
            warnings=(*scale.warnings, UNTRIED),
            scale_problem=scale.problem,
        )
        self.reader = f"pyisyntax {importlib.metadata.version('pyisyntax')}"

    def read_part(self, x: int, y: int, width: int, height: int, level: int) -> UInt8Array:
        """See :meth:`ClippedSlide.read_part`."""
        rgba = _thread().submit(self._region, x, y, width, height, level).result()
        part: UInt8Array = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])
        return part  # white where nothing was scanned

    def close(self) -> None:
        """See :meth:`Slide.close`. Waits for a read in progress."""
        _thread().submit(self._close).result()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _region(self, x: int, y: int, width: int, height: int, level: int) -> UInt8Array:
        """uint8 [height, width, 4], RGBA, of a part of the level."""
        if self._handle is None:
            raise SlideReadError(f"{self.info.slide_id}: the slide was closed; open it again")
        try:
            rgba: UInt8Array = self._handle.read_region(
                x, y, width, height, level=self._numbers[level]
            )
        except Exception as error:
            raise self.undecodable((x, y), level, error) from error
        return rgba


def _require_whole(path: Path) -> None:
    """Raise ValueError if blocks of coefficients lie beyond the file's end: libisyntax would make
    pixels of them that are none.

    Where blocks lie, files of the first version say in a table behind their header (group 301D,
    element 2015); others, and those that leave the table's length open, are not looked at.
    """
    with path.open("rb") as file:
        file_bytes, table_at = file.seek(0, 2), 1
        file.seek(0)
        while (header := file.read(1 << 20)) and (end := header.find(_HEADER_END)) < 0:
            table_at += len(header)
        if not header:
            raise ValueError("its header does not end")
        file.seek(table_at + end)
        tag, table_bytes = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if tag != _TABLE_OF_PLACES or table_bytes == _OPEN_LENGTH:
            return
        table_bytes -= table_bytes % _PLACE.itemsize
        places = np.frombuffer(file.read(min(table_bytes, file_bytes)), np.uint8)
    if len(places) < table_bytes:
        raise ValueError("cut short within its table of blocks")
    blocks = places.view(_PLACE)
    beyond = (blocks["at"] > file_bytes) | (blocks["bytes"] > file_bytes - blocks["at"])
    if beyond.any():
        raise ValueError(
            f"cut short: {beyond.sum()} of its {len(blocks)} blocks lie beyond its end"
        )


def _refused(path: Path, error: Exception) -> SlideOpenError:
    return SlideOpenError(
        f"{path}: a Philips iSyntax slide that pyisyntax does not open ({said_by(error)}); copy it "
        "again, or export it as TIFF or DICOM from the Image Management System"
    )
