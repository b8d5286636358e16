"""Which of a TIFF's directories are OpenSlide's levels, so that a slide is the same whoever reads
its pixels.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from pathgene_rt.slides.tiff.layout import TiffDirectory, TiledLevel


class UnlikeItsKind(str):
    """Why a level is left to OpenSlide: the file does not hold what its vendor's files hold.
    OpenSlide then believes numbers that nobody checked, and one that it takes for a size of memory
    ends the process.
    """


def pyramid_levels(
    directories: Sequence[TiffDirectory], description: str, properties: Mapping[str, str]
) -> list[TiledLevel | str]:
    """For each of OpenSlide's levels its tiles, or why they are left to OpenSlide.

    ``properties`` are OpenSlide's, of the same file. Which directories are levels follows its
    readers of each vendor (openslide-vendor-*.c): sizes and downsamples are then the same.
    """
    count = int(properties["openslide.level-count"])
    directories = [one for one in directories if not one.striped]
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
        return [UnlikeItsKind("its directories are not its levels")] * count
    result: list[TiledLevel | str] = []
    incomplete = False
    for number, (directory, origin_px) in enumerate(chosen):
        declared = f"openslide.level[{number}]."
        size_px = directory.size_px
        if origin_px is None:
            size_px = (int(properties[declared + "width"]), int(properties[declared + "height"]))
        incomplete |= bool((directory.byte_counts == 0).any())
        if not _fits(size_px, directory):
            result.append(UnlikeItsKind(directory.why_not or "its directory is another size"))
        elif incomplete and vendor == "aperio" and number > 0:
            result.append(directory.why_not or "OpenSlide fills missing tiles from the level above")
        else:
            try:
                result.append(directory.level(size_px, origin_px))
            except ValueError as error:
                result.append(str(error))
    return result


def _fits(size_px: tuple[int, int], directory: TiffDirectory) -> bool:
    """Whether a level of ``size_px`` has the directory's tiles (Philips declares their outline)."""
    wide, high = directory.tile_px
    return all(
        0 < level <= stored and -(-level // tile) == -(-stored // tile)
        for level, stored, tile in zip(size_px, directory.size_px, (wide, high), strict=True)
    )


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
