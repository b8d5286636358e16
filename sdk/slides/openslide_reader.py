"""Slides through OpenSlide: Aperio, Hamamatsu, MIRAX, Philips, Ventana, DICOM and others.

A DICOM slide is named by any one of its files; OpenSlide finds the others in the same folder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.scale import declared_mpp
from pathgene_rt.slides.slide import Overview

CACHE_BYTES = 64 << 20
"""Of decoded stored tiles. A row of them across a wide slide fits (60,000 x 256 px x 4 bytes), so
that a grid that is not aligned with them decodes each about once."""

MAX_SIDE_PX = 1 << 21
WHITE = (255, 255, 255)


def open_with_openslide(path: Path, mpp: float | None) -> OpenSlideReader | None:
    """The slide at ``path``, or None if OpenSlide does not know its format.

    Raises SlideOpenError if it knows the format but refuses the file, SlideScaleError as
    :func:`declared_mpp` does.
    """
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SlideOpenError(
            f"{path}: the OpenSlide library cannot be loaded ({error}); install openslide-bin"
        ) from error
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        raise SlideOpenError(
            f"{path}: OpenSlide refuses it ({error}); check the file or convert it"
        ) from error
    try:
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return OpenSlideReader(handle, path, mpp, openslide.__library_version__)
    except BaseException:
        handle.close()
        raise


class OpenSlideReader:
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: ``CACHE_BYTES`` plus 4 bytes a pixel of
    each read in progress.
    """

    def __init__(self, handle: Any, path: Path, mpp: float | None, version: str) -> None:
        """``handle`` is an ``openslide.OpenSlide``; it is closed by :meth:`close`."""
        self._handle = handle
        self._lock = threading.Lock()
        self._in_progress = 0
        self._closed = False
        self.reader = f"openslide {version}"
        properties: Mapping[str, str] = handle.properties
        if mpp is None:
            mpp = declared_mpp(
                path.stem, properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
            )
        self.info = SlideInfo(
            slide_id=path.stem,
            size_px=_checked_size(path, handle.dimensions),
            mpp=mpp,
            downsamples=tuple(float(value) for value in handle.level_downsamples),
            vendor=properties.get("openslide.vendor", "unknown"),
            bounds_xy_px=(
                int(properties.get("openslide.bounds-x", 0)),
                int(properties.get("openslide.bounds-y", 0)),
            ),
        )
        self._background = _background(properties.get("openslide.background-color"))

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        from openslide import OpenSlideError

        with self._reading():
            try:
                rgba: Image.Image = self._handle.read_region(xy_px, level, size_px)
            except OpenSlideError as error:
                raise SlideReadError(
                    f"{self.info.slide_id}: the pixels at {xy_px} of level {level} cannot be "
                    f"decoded ({error}); the file is damaged: copy or scan it again"
                ) from error
        width, height = size_px
        rgb = np.frombuffer(self._opaque(rgba), dtype=np.uint8).reshape(height, width, 3)
        if out is None:
            return rgb.copy()
        np.copyto(out, rgb)
        return out

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`."""
        return read_overview(self, mpp)

    def close(self) -> None:
        """See :meth:`Slide.close`.

        OpenSlide would crash if it were closed under a read. Waiting for one could take forever (a
        network share that went away), so the last read to end closes it.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._free_if_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise SlideReadError(f"{self.info.slide_id}: the slide was closed; open it again")
            self._in_progress += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_progress -= 1
                self._free_if_idle()

    def _free_if_idle(self) -> None:
        if self._closed and self._in_progress == 0:
            self._handle.close()

    def _opaque(self, rgba: Image.Image) -> bytes:
        """The bytes of ``rgba`` as RGB, over the background where it is not opaque."""
        pixels = np.asarray(rgba)
        # One pass over whole pixels: alpha bytes that are all 255 stay 255 under AND.
        common = np.bitwise_and.reduce(pixels.view(np.uint32), axis=None)
        if np.array([common], dtype=np.uint32).view(np.uint8)[3] < 255:
            backdrop = Image.new("RGBA", rgba.size, (*self._background, 255))
            rgba = Image.alpha_composite(backdrop, rgba)
        return rgba.tobytes("raw", "RGB")


def _checked_size(path: Path, size_px: tuple[int, int]) -> tuple[int, int]:
    width, height = size_px
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise SlideOpenError(
            f"{path}: claims to be {width} x {height} px; slides up to {MAX_SIDE_PX} px a side are "
            "read: the file is damaged or no slide"
        )
    return width, height


def _background(declared: str | None) -> tuple[int, int, int]:
    """The colour of ``openslide.background-color`` ("RRGGBB"), else white."""
    if declared is None or len(declared) != 6:
        return WHITE
    try:
        red, green, blue = bytes.fromhex(declared)
    except ValueError:
        return WHITE
    return red, green, blue
