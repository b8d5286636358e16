"""Philips iSyntax slides, through pyisyntax (libisyntax).

It is known to crash where threads share a slide, so one thread reads at a time, in a process of its
own (``registry``). No file could be had or made here, and every slide's report says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
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
    "read by pyisyntax, which was tried here on no file: compare the slide's pictures with the "
    "Image Management System"
)


IS_INSTALLED = importlib.util.find_spec("isyntax") is not None


def open_isyntax(path: Path, mpp: float | None) -> ISyntaxSlide:
    """The slide in the iSyntax file ``path``. Raises SlideOpenError."""
    from isyntax import ISyntax

    try:
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
        self._lock = threading.Lock()
        sizes = [(int(width), int(height)) for width, height in handle.level_dimensions]
        size_px = checked_size(path, sizes[0])
        self._numbers = levels_of_slide(sizes)
        self.level_sizes_px = [sizes[number] for number in self._numbers]
        stated = (f"{handle.mpp_x:.9g}", f"{handle.mpp_y:.9g}")
        scale = settled_scale(*stated, mpp)
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
        rgba = self._region(x, y, width, height, level)
        part: UInt8Array = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])
        return part  # white where nothing was scanned

    def close(self) -> None:
        """See :meth:`Slide.close`. Waits for a read in progress."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.close()

    def _region(self, x: int, y: int, width: int, height: int, level: int) -> UInt8Array:
        """uint8 [height, width, 4], RGBA, of a part of the level."""
        with self._lock:
            if self._handle is None:
                raise SlideReadError(f"{self.info.slide_id}: the slide was closed; open it again")
            try:
                rgba: UInt8Array = self._handle.read_region(
                    x, y, width, height, level=self._numbers[level]
                )
            except Exception as error:
                raise self.undecodable((x, y), level, error) from error
        return rgba


def _refused(path: Path, error: Exception) -> SlideOpenError:
    return SlideOpenError(
        f"{path}: a Philips iSyntax slide that pyisyntax does not open ({said_by(error)}); copy it "
        "again, or export it as TIFF or DICOM from the Image Management System"
    )
