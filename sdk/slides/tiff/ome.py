"""Which picture of an OME-TIFF is the slide, where its levels lie, and at which scale.

The description of the first directory is OME-XML (docs.openmicroscopy.org/ome-model): images, of
which each says its channels, its scale with a unit, and its directories. The levels of a picture
are SubIFDs of its directory (OME-TIFF 6.0), or directories behind it that no image claims.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathgene_rt.slides.pyramid import is_level_of
from pathgene_rt.slides.tiff.layout import TiffDirectory, TiledLevel

MAX_IMAGES = 1024
MAX_PLANES = 1024
"""Of an image: a file has no more directories."""

_UM_A_UNIT = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "\u00b5m": 1.0,  # micro sign
    "\u03bcm": 1.0,  # Greek mu
    "\u00c2\u00b5m": 1.0,  # the micro sign's UTF-8, read as Latin-1
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "in": 25_400.0,
}
_BESIDE_A_SLIDE = re.compile(r"\b(label|macro|thumbnail|overview|barcode)\b", re.IGNORECASE)
_MORE_SLIDES_SHARE = 0.25

_RGB = ("red", "green", "blue")
_COLOURS = {
    **dict.fromkeys(("red", "r", "-16776961", "4278190335"), "red"),
    **dict.fromkeys(("green", "g", "16711935"), "green"),
    **dict.fromkeys(("blue", "b", "65535"), "blue"),
}
"""Names of channels, and their colours as OME's signed (or unsigned) RGBA."""


@dataclass(frozen=True)
class OmeImage:
    """One image: ``directories`` are the numbers of those that hold its plane: one of RGB, or
    three, of red, green and blue. ``problem``: why it is none of these.
    """

    name: str
    size_px: tuple[int, int]
    mpp: tuple[str | None, str | None]
    directories: tuple[int, ...]
    claimed: frozenset[int]
    """Numbers of all its directories, other planes' too."""
    problem: str = ""
    note: str = ""
    """What a report should tell of it."""

    @property
    def area_px(self) -> int:
        return self.size_px[0] * self.size_px[1]


@dataclass(frozen=True)
class OmeSlide:
    """The slide in an OME-TIFF: ``levels`` from the finest on, whose directory is ``main``."""

    image: OmeImage
    main: TiffDirectory
    levels: tuple[TiledLevel, ...]
    warnings: tuple[str, ...]


def is_ome(description: str) -> bool:
    """Whether a TIFF whose first directory says ``description`` is an OME-TIFF."""
    return description.rstrip("\0 \r\n\t")[-10:].endswith("OME>")


def ome_images(description: str) -> list[OmeImage]:
    """The images that OME-XML lists. Raises ValueError where it cannot be read."""
    try:
        root = ET.fromstring(description.rstrip("\0").encode())
    except ET.ParseError as error:
        raise ValueError(f"its OME-XML cannot be read ({error})") from error
    images = []
    for number, image in enumerate(root.iterfind("{*}Image")):
        if number == MAX_IMAGES:
            raise ValueError(f"its OME-XML lists more than {MAX_IMAGES} images")
        pixels = image.find("{*}Pixels")
        if pixels is not None:
            name = image.get("Name", "") or f"image {number}"
            images.append(_image(name, pixels, root.get("UUID", "")))
    return images


def main_image(images: Sequence[OmeImage], directories: Sequence[TiffDirectory]) -> OmeSlide:
    """The largest brightfield image that is no label or macro picture.

    Raises ValueError where there is none, or its pixels are not decoded here: why.
    """
    of_slides = [one for one in images if not _BESIDE_A_SLIDE.search(one.name)]
    colour = [one for one in of_slides if not one.problem]
    if not colour:
        problems = [f"{one.name!r} is {one.problem}" for one in of_slides if one.problem]
        raise ValueError(problems[0] if problems else "no image in it is a slide")
    image = max(colour, key=lambda one: one.area_px)
    by_number = {one.number: one for one in directories}
    missing = [number for number in image.directories if number not in by_number]
    if missing:
        raise ValueError(f"directory {missing[0]} of {image.name!r} is not in it")
    planes = [by_number[number] for number in image.directories]
    try:
        levels = [_joined(planes)]
    except ValueError as error:
        size = "{} x {} px".format(*planes[0].size_px)
        raise ValueError(f"{image.name!r}, {size}, cannot be decoded here ({error})") from error
    claimed = frozenset[int]().union(*(one.claimed for one in images))
    for candidate in _smaller(planes, directories, claimed):
        if (
            candidate[0].size_px[0] < levels[-1].size_px[0]
            and is_level_of(candidate[0].size_px, planes[0].size_px)
            and _is_decoded(candidate)
        ):
            levels.append(_joined(candidate))
    others = [
        one.name
        for one in of_slides
        if one is not image and one.area_px >= _MORE_SLIDES_SHARE * image.area_px
    ]
    warnings = [image.note] if image.note else []
    if others:
        warnings.append(
            f"the file holds {len(others)} more pictures of a slide's size "
            f"({', '.join(map(repr, others[:5]))}), which were not read; {image.name!r} was"
        )
    return OmeSlide(image, planes[0], tuple(levels), tuple(warnings))


def _image(name: str, pixels: ET.Element, own_uuid: str) -> OmeImage:
    channels = pixels.findall("{*}Channel")
    sizes = (max(1, len(channels)), _whole(pixels, "SizeZ"), _whole(pixels, "SizeT"))
    planes, elsewhere = _planes(pixels, sizes, own_uuid)
    middle = sizes[1] // 2
    problem = ""
    chosen: tuple[int, ...] = ()
    if elsewhere:
        problem = f"in another file, {elsewhere!r}"
    elif pixels.get("Type", "uint8") != "uint8":
        problem = f"of {pixels.get('Type')} samples, not of 8 bits"
    else:
        chosen = tuple(planes.get((one, middle, 0), -1) for one in _colour_channels(channels))
        named = ", ".join(channel.get("Name", "") or "unnamed" for channel in channels[:6])
        if not chosen:
            problem = f"no brightfield picture in RGB but of {sizes[0]} channels ({named})"
    note = ""
    if sizes[1] * sizes[2] > 1:
        note = (
            f"{name!r} has {sizes[1]} focal planes at {sizes[2]} times, of which plane {middle} at "
            "time 0 was read"
        )
    return OmeImage(
        name,
        (_whole(pixels, "SizeX"), _whole(pixels, "SizeY")),
        (_um(pixels, "X"), _um(pixels, "Y")),
        chosen,
        frozenset(planes.values()),
        problem,
        note,
    )


def _colour_channels(channels: Sequence[ET.Element]) -> tuple[int, ...]:
    """The number of the channel of red, green and blue, or of the three that are; else none."""
    samples = [_whole(channel, "SamplesPerPixel") for channel in channels]
    if samples == [3]:
        return (0,)
    colours = [
        _COLOURS.get(channel.get("Name", "").strip().lower())
        or _COLOURS.get(channel.get("Color", ""))
        for channel in channels
    ]
    if samples == [1, 1, 1] and set(colours) == set(_RGB):
        return tuple(colours.index(one) for one in _RGB)
    return ()


def _planes(
    pixels: ET.Element, sizes: tuple[int, int, int], own_uuid: str
) -> tuple[dict[tuple[int, int, int], int], str]:
    """The directory of each plane (channel, z, t) of ``sizes``, and the other file that has some.

    By TiffData: so many planes from a first one on, in the pixels' order of dimensions, in
    directories that follow each other.
    """
    order = [letter for letter in pixels.get("DimensionOrder", "") if letter in "CZT"]
    axes = ["CZT".index(letter) for letter in order] if set(order) == set("CZT") else [0, 1, 2]
    total = sizes[0] * sizes[1] * sizes[2]
    planes: dict[tuple[int, int, int], int] = {}
    elsewhere = ""
    for data in pixels.findall("{*}TiffData")[:MAX_PLANES] or [ET.Element("TiffData")]:
        uuid = data.find("{*}UUID")
        if uuid is not None and own_uuid and (uuid.text or "").strip() != own_uuid:
            elsewhere = uuid.get("FileName", "without a name")
            continue
        first = [_whole(data, f"First{letter}", 0) for letter in "CZT"]
        directory = _whole(data, "IFD", 0)
        number, stride = 0, 1
        for axis in axes:
            number += first[axis] * stride
            stride *= sizes[axis]
        count = _whole(data, "PlaneCount", 1 if "IFD" in data.attrib else total)
        for step in range(min(count, total - number, MAX_PLANES)):
            rest, plane = number + step, [0, 0, 0]
            for axis in axes:
                rest, plane[axis] = divmod(rest, sizes[axis])
            planes[plane[0], plane[1], plane[2]] = directory + step
    return planes, elsewhere


def _smaller(
    planes: Sequence[TiffDirectory], directories: Sequence[TiffDirectory], claimed: frozenset[int]
) -> list[list[TiffDirectory]]:
    """What may be levels of the picture that lies in ``planes``, each as its planes, from the
    largest on: the SubIFDs; without any, directories behind that no image has ``claimed``.
    """
    found = [list(level) for level in zip(*(one.below for one in planes), strict=False)]
    if not found and len(planes) == 1:
        behind = (one for one in directories if one.number > planes[0].number)
        found = [[one] for one in behind if one.number not in claimed and not one.associated]
    return sorted(found, key=lambda level: -level[0].size_px[0])


def _joined(planes: Sequence[TiffDirectory]) -> TiledLevel:
    """The level whose three samples lie in ``planes``, or all in one. Raises ValueError."""
    first = planes[0]
    if len(planes) == 1:
        return first.level()
    if first.tiles is None or any(one.samples != 1 for one in planes):
        raise ValueError(first.why_not or "channels of several samples")
    kinds = {(one.size_px, one.tile_px, one.tiles, one.striped) for one in planes}
    if len(kinds) > 1:
        raise ValueError("its channels are stored in different ways")
    return TiledLevel(
        first.size_px,
        first.tile_px,
        np.concatenate([one.offsets for one in planes]),
        np.concatenate([one.byte_counts for one in planes]),
        first.tiles,
        planes=len(planes),
        clipped=first.striped,
    )


def _is_decoded(planes: Sequence[TiffDirectory]) -> bool:
    try:
        _joined(planes)
    except ValueError:
        return False
    return True


def _um(pixels: ET.Element, axis: str) -> str | None:
    """The picture's um per pixel along ``axis``, in decimal digits; None if it does not say so."""
    stated = pixels.get(f"PhysicalSize{axis}")
    unit = _UM_A_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "um").strip())
    try:
        return None if stated is None or unit is None else f"{float(stated) * unit:.10g}"
    except ValueError:
        return None


def _whole(element: ET.Element, name: str, default: int = 1) -> int:
    """The attribute ``name``, a whole number from 0 on; ``default`` where it is none."""
    text = element.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
