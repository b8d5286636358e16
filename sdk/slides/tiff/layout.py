"""Where the tiles of a TIFF's pyramid levels lie in the file, and how they are stored.

tifffile parses the directories. Everything a hostile file could make large (sides, tiles, their
number and bytes) is checked here, before anything of that size is allocated or OpenSlide is asked.
"""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.tiff.claims import MAX_DIRECTORIES, require_bounded
from pathgene_rt.slides.tiff.jpeg import JpegTiles
from pathgene_rt.slides.tiff.jpeg2000 import (
    HEAD_BYTES,
    Jpeg2000Tiles,
    declared_components,
    decoder_is_installed,
)

MAX_TILE_PX = 1 << 24
"""Of one encoded tile: 4096 x 4096 px, 48 MB decoded."""

FREE_PX = 1 << 26
MAX_PX_A_BYTE = 4096
"""A level may have FREE_PX, whatever holds them, and so many for each byte of its tiles: a byte
holds 100 px of blank glass as JPEG, 1,000 as JPEG 2000, and most of a slide may be left out."""

_SLACK_BYTES = 1 << 16

_JPEG, _APERIO_YCBCR, _APERIO_RGB = 7, 33003, 33005
_RGB, _YCBCR = 2, 6

_ASSOCIATED = re.compile(r"^(label|macro)\b", re.MULTILINE)
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")
_UM_A_UNIT = {2: 25_400.0, 3: 10_000.0}


@dataclass(frozen=True)
class TiledLevel:
    """A level whose encoded tiles can be decoded one by one.

    ``size_px`` and ``tile_px`` are (w, h); tiles go in rows of ``across``, the last of a row or
    column reaching past the level's edge. ``offsets`` and ``byte_counts`` int64 [tiles] are places
    in the file; a tile of 0 bytes is missing. The first pixel lies at ``origin_px`` of the level's
    canvas; ``origin_px`` is None where that is the canvas' own first.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    offsets: Int64Array
    byte_counts: Int64Array
    tiles: JpegTiles | Jpeg2000Tiles
    origin_px: tuple[float, float] | None = None

    @property
    def across(self) -> int:
        return -(-self.size_px[0] // self.tile_px[0])


@dataclass(frozen=True)
class TiffDirectory:
    """What one tiled directory of a TIFF says, checked against the file's size.

    ``associated``: it calls itself a label or macro picture. ``declared_mpp`` are um per pixel, x
    and y, in decimal digits.
    """

    number: int
    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    reduced: bool
    associated: bool
    declared_mpp: tuple[str | None, str | None]
    offsets: Int64Array
    byte_counts: Int64Array
    tiles: JpegTiles | Jpeg2000Tiles | None
    why_not: str
    """Where ``tiles`` is None: what about their storage is not decoded directly."""


def read_directories(path: Path) -> tuple[list[TiffDirectory], str]:
    """The tiled directories of the TIFF ``path`` in order, and the first one's description.

    Raises SlideOpenError where sizes are absurd or tiles lie outside the file; ValueError where
    tifffile cannot make sense of the directories (OpenSlide may).
    """
    import tifffile

    # Its warnings name the file, and where it matters the error below says more: they go where a
    # host sends them, not to stderr.
    log = tifffile.logger()
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    file_bytes = path.stat().st_size
    require_bounded(path, file_bytes)
    directories, description = [], ""
    try:
        with tifffile.TiffFile(path) as tiff:
            for number in range(MAX_DIRECTORIES):
                try:
                    page = tiff.pages[number]
                except IndexError:
                    break
                if not isinstance(page, tifffile.TiffPage):
                    raise ValueError(f"directory {number} is incomplete")
                if number == 0:
                    description = str(page.description)
                if page.is_tiled:
                    directories.append(_directory(path, number, page, file_bytes))
    except SlideOpenError:
        raise
    except Exception as error:
        # A parser of many formats, fed with anything: what it raises is not a contract.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return directories, description


def pyramid_levels(
    directories: Sequence[TiffDirectory], description: str, properties: Mapping[str, str]
) -> list[TiledLevel | str]:
    """For each of OpenSlide's levels its tiles, or why they are left to OpenSlide.

    ``properties`` are OpenSlide's, of the same file. Which directories are levels follows its
    readers of each vendor (openslide-vendor-*.c): sizes and downsamples are then the same.
    """
    count = int(properties["openslide.level-count"])
    vendor = properties.get("openslide.vendor", "")
    chosen: list[tuple[TiffDirectory, tuple[float, float] | None]]
    if vendor in {"aperio", "philips"}:
        chosen = [(directory, None) for directory in directories]
    elif vendor == "generic-tiff":
        levels = [one for one in directories if one.number == 0 or one.reduced]
        chosen = [(one, None) for one in sorted(levels, key=lambda one: -one.size_px[0])]
    elif vendor == "leica":
        chosen = _leica_levels(directories, description)
    else:
        return [f"{vendor} files"] * count
    if len(chosen) != count:
        return ["its directories are not its levels"] * count
    result: list[TiledLevel | str] = []
    incomplete = False
    for number, (directory, origin_px) in enumerate(chosen):
        declared = f"openslide.level[{number}]."
        size_px = directory.size_px
        if origin_px is None:
            size_px = (int(properties[declared + "width"]), int(properties[declared + "height"]))
        incomplete |= bool((directory.byte_counts == 0).any())
        if directory.tiles is None:
            result.append(directory.why_not)
        elif not _fits(size_px, directory):
            result.append("its directory is another size")
        elif incomplete and vendor == "aperio" and number > 0:
            result.append("OpenSlide fills missing tiles from the level above")
        else:
            level = TiledLevel(
                size_px,
                directory.tile_px,
                directory.offsets,
                directory.byte_counts,
                directory.tiles,
                origin_px,
            )
            result.append(level)
    return result


def _fits(size_px: tuple[int, int], directory: TiffDirectory) -> bool:
    """Whether a level of ``size_px`` has the directory's tiles (Philips declares their outline)."""
    wide, high = directory.tile_px
    return all(
        0 < level <= stored and -(-level // tile) == -(-stored // tile)
        for level, stored, tile in zip(size_px, directory.size_px, (wide, high), strict=True)
    )


def _directory(path: Path, number: int, page: Any, file_bytes: int) -> TiffDirectory:
    size_px = checked_size(path, (int(page.imagewidth), int(page.imagelength)))
    tile_px = (int(page.tilewidth), int(page.tilelength))
    if not (min(tile_px) > 0 and tile_px[0] * tile_px[1] <= MAX_TILE_PX):
        raise SlideOpenError(
            f"{path}: claims encoded tiles of {tile_px[0]} x {tile_px[1]} px; up to "
            f"{MAX_TILE_PX} px in all are read: the file is damaged, or convert it"
        )
    expected = -(-size_px[0] // tile_px[0]) * -(-size_px[1] // tile_px[1])
    expected *= int(page.samplesperpixel) if int(page.planarconfig) == 2 else 1
    if len(page.dataoffsets) != expected or len(page.databytecounts) != expected:
        raise SlideOpenError(
            f"{path}: directory {number} needs {expected} encoded tiles but lists "
            f"{len(page.dataoffsets)}; the file is damaged: copy it again"
        )
    offsets = np.array(page.dataoffsets, dtype=np.uint64)
    byte_counts = np.array(page.databytecounts, dtype=np.uint64)
    present = byte_counts > 0
    limit = np.uint64(file_bytes)
    # In this order, so that no sum overflows.
    outside = present & ((offsets > limit) | (byte_counts > limit - np.minimum(offsets, limit)))
    if outside.any():
        raise SlideOpenError(
            f"{path}: cut short (it has {file_bytes} bytes, but encoded tile "
            f"{int(np.argmax(outside))} of directory {number} lies beyond); copy it again"
        )
    # Tiles may share their bytes.
    pixels, stored = size_px[0] * size_px[1], min(file_bytes, int(byte_counts.sum()))
    if pixels > FREE_PX + MAX_PX_A_BYTE * stored:
        raise SlideOpenError(
            f"{path}: directory {number} claims {size_px[0]} x {size_px[1]} px in {stored} bytes; "
            "the file is damaged: copy it again"
        )
    tiles, why_not = _storage(page)
    if isinstance(tiles, Jpeg2000Tiles) and not _is_full_colour(page, tile_px):
        # As imagecodecs does not scale its colours up, and Pillow and pylibjpeg hold the GIL.
        tiles, why_not = None, "JPEG 2000 with subsampled colours"
    most = 2 * 3 * tile_px[0] * tile_px[1] + _SLACK_BYTES
    if tiles is not None and (byte_counts > np.uint64(most)).any():
        raise SlideOpenError(
            f"{path}: a compressed tile of {tile_px[0]} x {tile_px[1]} px claims "
            f"{int(byte_counts.max())} bytes; the file is damaged: copy it again"
        )
    return TiffDirectory(
        number,
        size_px,
        tile_px,
        bool(int(page.subfiletype) & 1),
        _ASSOCIATED.search(str(page.description)) is not None,
        _declared_mpp(page),
        offsets.astype(np.int64),
        byte_counts.astype(np.int64),
        tiles,
        why_not,
    )


def _declared_mpp(page: Any) -> tuple[str | None, str | None]:
    """Aperio's MPP, or the scale by the resolution tags."""
    stated = _APERIO_MPP.search(str(page.description))
    if stated is not None:
        return stated[1], stated[1]
    um = _UM_A_UNIT.get(int(page.resolutionunit))
    x, y = page.resolution
    return (None, None) if um is None or not (x and y) else (f"{um / x:.10g}", f"{um / y:.10g}")


def _storage(page: Any) -> tuple[JpegTiles | Jpeg2000Tiles | None, str]:
    """The decoder of a directory's tiles, or None and what it is that has none."""
    compression, photometric = int(page.compression), int(page.photometric)
    bits = page.bitspersample
    if int(page.samplesperpixel) != 3 or int(page.planarconfig) != 1 or bits not in {8, (8, 8, 8)}:
        return None, f"{page.samplesperpixel} samples of {bits} bits a pixel"
    if compression == _JPEG and photometric in {_RGB, _YCBCR}:
        return JpegTiles(photometric == _YCBCR, bytes(page.jpegtables or b"")), ""
    if compression in {_APERIO_YCBCR, _APERIO_RGB}:
        if decoder_is_installed():
            return Jpeg2000Tiles(compression == _APERIO_YCBCR), ""
        return None, "JPEG 2000 needs the extra jpeg2000"
    return None, f"compression {compression}"


def _is_full_colour(page: Any, tile_px: tuple[int, int]) -> bool:
    """Whether the first encoded tile of JPEG 2000 has three components of its whole size."""
    first = next((k for k, count in enumerate(page.databytecounts) if count), None)
    if first is None:
        return True
    file = page.parent.filehandle
    file.seek(page.dataoffsets[first])
    try:
        return declared_components(file.read(HEAD_BYTES)) == [tile_px] * 3
    except ValueError:
        # Damaged, perhaps alone: that is found when it is read.
        return True


def _leica_levels(
    directories: Sequence[TiffDirectory], description: str
) -> list[tuple[TiffDirectory, tuple[float, float] | None]]:
    """The directories of the one main image, largest first, and where they lie on the canvas.

    Empty where there are several main images: OpenSlide composes them.
    """
    by_number = {directory.number: directory for directory in directories}
    try:
        collection = ET.fromstring(description.encode()).find("{*}collection")
    except ET.ParseError:
        return []
    if collection is None:
        return []
    whole = (collection.get("sizeX"), collection.get("sizeY"))
    main = []
    for image in collection.findall("{*}image"):
        view = image.find("{*}view")
        light = image.findtext(".//{*}illuminationSource")
        if view is None or light != "brightfield":
            continue
        offset = (view.get("offsetX"), view.get("offsetY"))
        if offset != ("0", "0") or (view.get("sizeX"), view.get("sizeY")) != whole:
            main.append((image, view))
    if len(main) != 1:
        return []
    image, view = main[0]
    wide_nm, left_nm, top_nm = (int(view.get(name, 0)) for name in ("sizeX", "offsetX", "offsetY"))
    levels = []
    for dimension in image.findall("{*}pixels/{*}dimension"):
        directory = by_number.get(int(dimension.get("ifd", -1)))
        if directory is None:
            return []
        if dimension.get("z") in {None, "0"}:
            nm = wide_nm / int(dimension.get("sizeX", 0) or 1)
            levels.append((directory, (left_nm / nm, top_nm / nm)))
    return sorted(levels, key=lambda level: -level[0].size_px[0])
