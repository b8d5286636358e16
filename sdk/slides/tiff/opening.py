"""From a TIFF to an open slide: Aperio, Philips, Leica, generic, OME-TIFF.

OpenSlide opens each file that it knows too: for its metadata, so that a slide is the same whoever
reads its pixels, and for the levels that are stored in another way. An OME-TIFF it does not know:
it sees neither the levels in SubIFDs nor the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.openslide_reader import (
    OpenSlideReader,
    detected_vendor,
    open_with_openslide,
)
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.tiff.encoded_tiles import ByteSource
from pathgene_rt.slides.tiff.layout import (
    MppPair,
    TiffDirectory,
    TiledLevel,
    read_directories,
)
from pathgene_rt.slides.tiff.main_picture import behind_another, more_slides, pyramid_of
from pathgene_rt.slides.tiff.ome import is_ome, main_image, ome_images
from pathgene_rt.slides.tiff.openslide_levels import UnlikeItsKind, pyramid_levels
from pathgene_rt.slides.tiff.reader import TiledSlide, slide_of_levels

FIRST_IS_SLIDE = frozenset({"generic-tiff", "aperio"})
"""What OpenSlide calls files of which it takes the first picture for the slide."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a TIFF, classic or BigTIFF."""
    return head.startswith(TIFF_STARTS)


def open_tiff(
    path: Path, mpp: float | None, source: ByteSource | None = None
) -> TiledSlide | OpenSlideReader | None:
    """The slide in the TIFF ``path``, or None if it is one that OpenSlide does not know. ``source``
    is what tiles are read from that are decoded here, if not the file; it is closed with the slide.

    Raises SlideOpenError, also for sizes that no slide has, before they are allocated.
    """
    try:
        pictures, description = read_directories(path)
    except ValueError:
        pictures, description = [], ""
    if pictures and is_ome(description):
        return _open_ome(path, pictures, description, mpp, source)
    directories = [one for one in pictures if not one.striped]
    vendor = detected_vendor(path)
    main = behind_another(directories)
    if main is not None and vendor in FIRST_IS_SLIDE:
        return _open_alone(path, main, directories, mpp, source)
    return _open_with_openslide(path, vendor or "", directories, description, mpp, source)


def open_plain_tiff(path: Path, mpp: float | None) -> TiledSlide | None:
    """The largest picture of a TIFF that no other reader knows, in strips or tiles, or None if
    there is none. Raises SlideOpenError.
    """
    try:
        pictures, _ = read_directories(path)
    except ValueError:
        return None
    if not pictures:
        return None
    return _open_alone(path, max(pictures, key=lambda one: one.area_px), pictures, mpp)


def _open_with_openslide(
    path: Path,
    vendor: str,
    directories: list[TiffDirectory],
    description: str,
    mpp: float | None,
    source: ByteSource | None,
) -> TiledSlide | OpenSlideReader | None:
    """The slide whose levels are OpenSlide's."""
    left_out = frozenset(number for number, one in enumerate(directories) if one.associated)
    try:
        slide = open_with_openslide(path, mpp, left_out={"aperio": left_out})
    except SlideOpenError as error:
        if vendor not in FIRST_IS_SLIDE or not directories:
            raise
        try:
            return _open_alone(path, directories[0], directories, mpp, source)
        except SlideOpenError as ours:
            refused, why = str(error).partition("; ")[0], str(ours).removeprefix(f"{path}: ")
            raise SlideOpenError(f"{refused}; {why}") from error
    if slide is None:
        return None
    try:
        if slide.info.vendor == "generic-tiff" and directories:
            told = more_slides(directories[0], directories)
            slide.info = replace(slide.info, warnings=(*slide.info.warnings, *told))
        every_level = pyramid_levels(directories, description, slide.properties)
        levels = [every_level[number] for number in slide.level_numbers]
        slide.is_odd = any(isinstance(level, UnlikeItsKind) for level in levels)
        if not any(isinstance(level, TiledLevel) for level in levels):
            reasons = dict.fromkeys(level for level in levels if isinstance(level, str))
            slide.reader = f"{slide.reader} ({'; '.join(reasons)})"
            return slide
        return TiledSlide(source or [path], levels, slide.info, slide.background, slide)
    except BaseException:
        slide.close()
        raise


def _open_alone(
    path: Path,
    main: TiffDirectory,
    directories: Sequence[TiffDirectory],
    mpp: float | None,
    source: ByteSource | None = None,
) -> TiledSlide:
    """The slide of which ``main`` is level 0, which OpenSlide does not see. Raises SlideOpenError
    where it is not stored in a way that is decoded here.
    """
    try:
        first, size = directories[0].size_px, main.size_px
        pyramid = [(one.size_px, one.level()) for one in pyramid_of(main, directories)]
    except ValueError as error:
        which = (
            f"a TIFF file whose picture of {size[0]} x {size[1]} px"
            if first == size
            else f"its first picture, {first[0]} x {first[1]} px, is not the slide, and the one "
            f"that is, {size[0]} x {size[1]} px,"
        )
        raise SlideOpenError(
            f"{path}: {which} cannot be decoded here ({error}); {_WAY_OUT}"
        ) from error
    told = more_slides(main, directories)
    levels = [level for _, level in pyramid]
    return _slide(path, levels, "generic-tiff", main.declared_mpp, mpp, told, source)


_WAY_OUT = "export it as a tiled TIFF of 8-bit RGB in JPEG, as QuPath and libvips do"


def _open_ome(
    path: Path,
    directories: Sequence[TiffDirectory],
    description: str,
    mpp: float | None,
    source: ByteSource | None,
) -> TiledSlide:
    """The largest brightfield picture of an OME-TIFF, with the levels in its SubIFDs or behind it.

    Raises SlideOpenError.
    """
    try:
        images = ome_images(description)
        chosen = main_image(images, directories)
    except ValueError as error:
        raise SlideOpenError(f"{path}: an OME-TIFF, but {error}; {_WAY_OUT}") from error
    stated = [chosen.image.mpp] if chosen.image.mpp != (None, None) else chosen.main.declared_mpp
    return _slide(path, chosen.levels, "ome-tiff", stated, mpp, chosen.warnings, source)


def _slide(
    path: Path,
    levels: Sequence[TiledLevel],
    vendor: str,
    stated: Sequence[MppPair],
    given: float | None,
    warnings: Sequence[str],
    source: ByteSource | None,
) -> TiledSlide:
    """The slide whose scale is ``stated`` by the file, or ``given`` by the user."""
    scale = settled_scale(None, None, given, stated)
    return slide_of_levels(path, source or [path], levels, scale, vendor, warnings)
