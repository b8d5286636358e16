"""Slides through OpenSlide: Aperio, Hamamatsu, MIRAX, Philips, Ventana, DICOM and others.

A DICOM slide is named by any one of its files; OpenSlide finds the others in the same folder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from pathgene_rt.errors import SlideOpenError, SlideReadError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.pixel_slide import PixelSlide
from pathgene_rt.slides.pyramid import is_larger, levels_of_slide
from pathgene_rt.slides.scale import mpp_in, settled_scale
from pathgene_rt.slides.shared_handle import HandleClosedError, SharedHandle

CACHE_BYTES = 64 << 20
"""Of decoded encoded tiles. A row of them across a wide slide fits (60,000 x 256 px x 4 bytes), so
that a grid that is not aligned with them decodes each about once."""

WHITE = (255, 255, 255)


def detected_vendor(path: Path) -> str | None:
    """What OpenSlide calls the format of ``path``; None if it does not know it, or cannot tell."""
    import openslide

    try:
        return openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError):
        return None


def open_with_openslide(
    path: Path, mpp: float | None, left_out: Mapping[str, Collection[int]] | None = None
) -> OpenSlideReader | None:
    """The slide at ``path``, or None if OpenSlide does not know its format.

    ``left_out`` are, by vendor, OpenSlide's levels that are none: beside those of another shape.

    Raises SlideOpenError if it knows the format but refuses the file.
    """
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SlideOpenError(
            f"{path}: the OpenSlide library cannot be loaded ({error}); install openslide-bin"
        ) from error
    cache = openslide.OpenSlideCache(CACHE_BYTES)

    def opened() -> Any:
        handle = openslide.OpenSlide(path)
        handle.set_cache(cache)
        return handle

    try:
        handle = opened()
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        raise SlideOpenError(
            f"{path}: OpenSlide refuses it ({error}); check the file or convert it"
        ) from error
    try:
        version = openslide.__library_version__
        return OpenSlideReader(handle, path, mpp, version, opened, left_out or {})
    except BaseException:
        handle.close()
        raise


class OpenSlideReader(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: ``CACHE_BYTES`` plus 4 bytes a pixel of
    each read in progress.

    An OpenSlide handle that failed once fails for ever. A region that cannot be read is therefore
    read again through a fresh handle, which takes the place of the first if it can: a damaged
    region costs the slide two openings more.

    ``is_odd`` says that the file is not what its kind is: better read where a crash does no harm.
    """

    is_odd = False

    def __init__(
        self,
        handle: Any,
        path: Path,
        mpp: float | None,
        version: str,
        opened: Callable[[], Any],
        left_out: Mapping[str, Collection[int]] = MappingProxyType({}),
    ) -> None:
        """``handle`` is an ``openslide.OpenSlide``, ``opened`` gives another of the same file; all
        are closed by :meth:`close`.
        """
        self._shared = SharedHandle(handle, handle.close)
        self._opened = opened
        self._lock = threading.Lock()
        self._closed = False
        self.reader = f"openslide {version}"
        self.properties = properties = _properties(handle)
        described = mpp_in(
            properties.get("openslide.comment") or properties.get("tiff.ImageDescription", "")
        )
        scale = settled_scale(
            properties.get("openslide.mpp-x"),
            properties.get("openslide.mpp-y"),
            mpp,
            [(described, described)],
        )
        vendor = properties.get("openslide.vendor", "unknown")
        size_px = checked_size(path, handle.dimensions)
        sizes = handle.level_dimensions
        if any(is_larger(size, sizes[0]) for size in sizes):
            raise SlideOpenError(
                f"{path}: its first picture, {sizes[0][0]} x {sizes[0][1]} px, is smaller than "
                "others, so it is not the slide; convert it to a file that begins with the slide"
            )
        self.level_numbers = [
            number for number in levels_of_slide(sizes) if number not in left_out.get(vendor, ())
        ]
        """OpenSlide's of our levels."""
        self.info = SlideInfo(
            slide_id=slide_id_of(path),
            size_px=size_px,
            mpp=scale.mpp,
            downsamples=tuple(
                float(handle.level_downsamples[number]) for number in self.level_numbers
            ),
            vendor=vendor,
            bounds_xy_px=(
                int(properties.get("openslide.bounds-x", 0)),
                int(properties.get("openslide.bounds-y", 0)),
            ),
            warnings=scale.warnings,
            scale_problem=scale.problem,
        )
        self.background = _background(properties.get("openslide.background-color"))

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,  # noqa: ARG002 - OpenSlide always decodes all
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        image = self._opaque(self._read_region(xy_px, self.level_numbers[level], size_px))
        if shrink > 1:
            rgb = np.asarray(image.convert("RGB").reduce(shrink))
        else:
            pixels = np.frombuffer(image.tobytes("raw", "RGB"), dtype=np.uint8)
            rgb = pixels.reshape(size_px[1], size_px[0], 3)
        if out is None:
            return rgb.copy()
        np.copyto(out, rgb)
        return out

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        with self._lock:
            self._closed = True
            self._shared.close()

    def _read_region(
        self, xy_px: tuple[int, int], level: int, size_px: tuple[int, int]
    ) -> Image.Image:
        """The region as RGBA, by the shared handle or, if that fails, by a fresh one."""
        from openslide import OpenSlideError

        with self._lock:
            shared = self._shared
        try:
            with shared as handle:
                rgba: Image.Image = handle.read_region(xy_px, level, size_px)
                return rgba
        except HandleClosedError as error:
            if self._closed:
                raise SlideReadError(
                    f"{self.info.slide_id}: the slide was closed; open it again"
                ) from error
            # Another thread replaced it in between.
            return self._read_region(xy_px, level, size_px)
        except OpenSlideError as error:
            # Of this region, or of an earlier one: the handle does not say.
            fresh = self._fresh(error)
        try:
            rgba = fresh.read_region(xy_px, level, size_px)
        except OpenSlideError as error:
            fresh.close()
            raise self.undecodable(xy_px, level, error) from error
        self._replace(shared, fresh)
        return rgba

    def _fresh(self, latched: Exception) -> Any:
        from openslide import OpenSlideError

        try:
            return self._opened()
        except (OpenSlideError, OSError) as error:
            raise SlideReadError(
                f"{self.info.slide_id}: a read failed ({latched}) and the file cannot be opened "
                f"again ({error}); check the disk"
            ) from error

    def _replace(self, failed: SharedHandle[Any], fresh: Any) -> None:
        """Share ``fresh`` instead of ``failed``, unless another thread was first."""
        with self._lock:
            if self._shared is failed and not self._closed:
                self._shared = SharedHandle(fresh, fresh.close)
                failed.close()
                return
        fresh.close()

    def _opaque(self, rgba: Image.Image) -> Image.Image:
        """``rgba``, over the background where it is not opaque."""
        pixels = np.asarray(rgba)
        # One pass over whole pixels: alpha bytes that are all 255 stay 255 under AND.
        common = np.bitwise_and.reduce(pixels.view(np.uint32), axis=None)
        if np.array([common], dtype=np.uint32).view(np.uint8)[3] == 255:
            return rgba
        backdrop = Image.new("RGBA", rgba.size, (*self.background, 255))
        return Image.alpha_composite(backdrop, rgba)


def _properties(handle: Any) -> dict[str, str]:
    """OpenSlide's properties; without those whose name is no UTF-8, which cannot be asked for."""
    return {
        name: handle.properties[name] for name in handle.properties if name in handle.properties
    }


def _background(declared: str | None) -> tuple[int, int, int]:
    """The colour of ``openslide.background-color`` ("RRGGBB"), else white."""
    if declared is None or len(declared) != 6:
        return WHITE
    try:
        red, green, blue = bytes.fromhex(declared)
    except ValueError:
        return WHITE
    return red, green, blue
