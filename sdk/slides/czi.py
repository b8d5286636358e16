"""Zeiss CZI slides that OpenSlide refuses, such as those with focal planes or in zstd, through
pylibCZIrw (Zeiss's libCZI).

What OpenSlide reads is left to it: it is the one that more slides were tried with. Both are native
code that damaged files can crash, so this runs in a process of its own (``registry``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError, SlideReadError, said_by
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.openslide_reader import open_with_openslide
from pathgene_rt.slides.pixel_slide import PixelSlide, given_back
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.slide import Slide

START = b"ZISRAWFILE"

CACHE_BYTES = 256 << 20
"""Of decoded sub-blocks, each of which many tiles share: 17 of 2,464 x 2,056 px."""

_WHITE = (1.0, 1.0, 1.0)
_RGB = "Bgr24"
_UM_A_METRE = 1e6


def open_czi(path: Path, mpp: float | None) -> Slide | None:
    """The slide in the CZI file ``path``, or None if neither library knows it.

    Raises SlideOpenError.
    """
    installed = importlib.util.find_spec("pylibCZIrw") is not None
    try:
        slide = open_with_openslide(path, mpp)
    except SlideOpenError as error:
        if installed:
            return _opened(path, mpp, str(error.__cause__ or error))
        raise SlideOpenError(
            f"{error}; the extra czi (pylibCZIrw) reads focal planes and zstd: install it"
        ) from error
    if slide is None and installed:
        return _opened(path, mpp, "not a CZI file that it knows")
    return slide


def _opened(path: Path, mpp: float | None, refused: str) -> CziSlide:
    """The slide by pylibCZIrw, after OpenSlide ``refused`` it in these words."""
    from pylibCZIrw import czi

    cache = czi.CacheOptions(type=czi.CacheType.Standard, max_memory_usage=CACHE_BYTES)
    try:
        reader = czi.CziReader(str(path), cache_options=cache)
    except Exception as error:
        raise SlideOpenError(
            f"{path}: a Zeiss CZI file that neither OpenSlide ({refused}) nor pylibCZIrw "
            f"({said_by(error)}) opens; copy it again, or save it anew with ZEN"
        ) from error
    with ExitStack() as opened:
        opened.callback(reader.close)
        try:
            slide = CziSlide(reader, path, mpp, refused)
        except SlideOpenError:
            raise
        except Exception as error:
            raise SlideOpenError(
                f"{path}: a Zeiss CZI file whose directory cannot be read ({said_by(error)}); copy "
                "it again, or save it anew with ZEN"
            ) from error
        opened.pop_all()
    return slide


class CziSlide(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: ``CACHE_BYTES``, and thrice the region of
    a read. One thread reads at a time.

    All scenes are one picture, as they lie on the glass. Of several focal planes the middle one is
    read. A level is a reduction by which sub-blocks are stored.
    """

    def __init__(self, reader: Any, path: Path, mpp: float | None, refused: str) -> None:
        """``reader`` is a ``pylibCZIrw.czi.CziReader``, closed by :meth:`close`."""
        self._reader: Any = reader
        self._lock = threading.Lock()
        channel = next(
            (number for number, kind in reader.pixel_types.items() if kind == _RGB), None
        )
        if channel is None:
            kinds = ", ".join(sorted(set(reader.pixel_types.values()))) or "none"
            raise SlideOpenError(
                f"{path}: a Zeiss CZI file without a picture in 8-bit colour (its pixels are "
                f"{kinds}); fluorescence and grey pictures are not read"
            )
        box = reader.total_bounding_box_no_pyramid
        whole = reader.total_bounding_rectangle_no_pyramid
        self._corner = (whole.x, whole.y)
        depths, times = (_extent(box, axis) for axis in "ZT")
        self._plane = {"C": channel, "Z": depths[len(depths) // 2], "T": times[0]}
        size_px = checked_size(path, (whole.w, whole.h))
        self._factors = _factors(reader)
        warnings = []
        if len(depths) > 1:
            number = len(depths) // 2 + 1
            warnings.append(
                f"the slide has {len(depths)} focal planes, of which number {number} was read"
            )
        if len(times) > 1:
            warnings.append(f"the slide has {len(times)} points in time; the first was read")
        if len(reader.pixel_types) > 1:
            warnings.append(
                f"the slide has {len(reader.pixel_types)} channels, of which number {channel + 1} "
                "was read"
            )
        scale = settled_scale(*_stated_scale(reader.raw_metadata), mpp)
        self.info = SlideInfo(
            slide_id=slide_id_of(path),
            size_px=size_px,
            mpp=scale.mpp,
            downsamples=tuple(float(factor) for factor in self._factors),
            vendor="zeiss",
            warnings=(*scale.warnings, *warnings),
            scale_problem=scale.problem,
        )
        version = importlib.metadata.version("pylibCZIrw")
        self.reader = f"pylibCZIrw {version} (OpenSlide refuses the file: {refused})"

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,  # noqa: ARG002 - all is always decoded
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        return given_back(self._region(xy_px, level, size_px), shrink, out)

    def close(self) -> None:
        """See :meth:`Slide.close`. Waits for a read in progress."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _region(self, xy_px: tuple[int, int], level: int, size_px: tuple[int, int]) -> UInt8Array:
        factor = self._factors[level]
        x, y = (corner + at for corner, at in zip(self._corner, xy_px, strict=True))
        # libCZI rounds sizes down, of a zoom in 32 bits.
        zoom = 1.0 if factor == 1 else (1 + 1e-6) / factor
        with self._lock:
            if self._reader is None:
                raise SlideReadError(f"{self.info.slide_id}: the slide was closed; open it again")
            try:
                bgr = self._reader.read(
                    roi=(x, y, size_px[0] * factor, size_px[1] * factor),
                    plane=self._plane,
                    zoom=zoom,
                    pixel_type=_RGB,
                    background_pixel=_WHITE,
                )
            except Exception as error:
                raise self.undecodable(xy_px, level, error) from error
        if bgr.shape != (size_px[1], size_px[0], 3):
            raise SlideReadError(
                f"{self.info.slide_id}: pylibCZIrw gave {bgr.shape[1]} x {bgr.shape[0]} px where "
                f"{size_px[0]} x {size_px[1]} were asked for; update it"
            )
        return np.ascontiguousarray(bgr[..., ::-1])


def _factors(reader: Any) -> list[int]:
    """By which whole numbers stored sub-blocks are reduced, 1 first."""
    found = {1}

    def one(_: int, block: Any) -> bool:
        logical, stored = block.logicalRect, block.physicalSize
        if stored.w > 0 and stored.h > 0:
            found.add(round(max(logical.w / stored.w, logical.h / stored.h)))
        return True

    reader.enumerate_subblocks(one)
    whole = reader.total_bounding_rectangle_no_pyramid
    return sorted(factor for factor in found if 0 < factor <= min(whole.w, whole.h))


def _extent(box: Mapping[str, tuple[int, int]], axis: str) -> range:
    return range(*box.get(axis, (0, 1))) or range(1)


def _stated_scale(xml: str) -> tuple[str | None, str | None]:
    """Um per pixel, x and y, in decimal digits, of the file's metadata."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return None, None
    stated: dict[str, str] = {}
    for distance in root.findall(".//Scaling/Items/Distance"):
        metres = distance.findtext("Value", "")
        try:
            stated.setdefault(distance.get("Id", ""), f"{float(metres) * _UM_A_METRE:.9g}")
        except ValueError:
            continue
    return stated.get("X"), stated.get("Y")
