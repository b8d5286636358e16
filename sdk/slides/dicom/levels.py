"""From the files of a DICOM series to the levels of one slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array
from pathgene_rt.slides.dicom.frames import without_heads
from pathgene_rt.slides.dicom.instance import Instance
from pathgene_rt.slides.dicom.transfer_syntax import decoder_of, is_encapsulated
from pathgene_rt.slides.pyramid import is_level_of
from pathgene_rt.slides.tiff.layout import TiledLevel


@dataclass(frozen=True)
class DicomPyramid:
    """``levels`` from the finest on, whose offsets count in the files ``paths`` one after another.
    ``mpp`` are um per level-0 pixel, x and y, in decimal digits.
    """

    levels: tuple[TiledLevel, ...]
    paths: tuple[Path, ...]
    mpp: tuple[str | None, str | None]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """The frames of a picture that are read: of optical path ``path`` and focal plane ``depth``,
    both by their number.
    """

    path: int
    depth: int
    paths: int
    depths: int

    @property
    def warning(self) -> str:
        """For a report; empty where there is nothing to choose."""
        parts = []
        if self.depths > 1:
            parts.append(f"{self.depths} focal planes, of which number {self.depth + 1} was read")
        if self.paths > 1:
            parts.append(f"{self.paths} optical paths, of which number {self.path + 1} was read")
        return f"the slide has {' and '.join(parts)}" if parts else ""


def pyramid_of(instances: Sequence[Instance]) -> DicomPyramid:
    """The slide in the files of one series.

    Raises ValueError where a picture is stored in a way that is not read here: why; SlideOpenError
    where a file is missing.
    """
    volume = list({one.uid: one for one in instances if one.volume}.values())
    if not volume:
        raise ValueError("none of its files is of the slide itself (VOLUME)")
    paths = tuple(one.path for one in volume)
    starts = np.cumsum([0, *(one.extent for one in volume)])
    start_of = {one.uid: int(start) for one, start in zip(volume, starts, strict=False)}
    pictures: dict[str, list[Instance]] = {}
    for one in volume:
        pictures.setdefault(one.concatenation or one.uid, []).append(one)
    # Of several pictures of one size, as of optical paths in files of their own, those in
    # brightfield come first.
    ordered = sorted(
        (_in_order(parts) for parts in pictures.values()),
        key=lambda parts: (-parts[0].size_px[0], not parts[0].brightfield, parts[0].uid),
    )
    main, warnings = ordered[0][0], []
    levels: list[TiledLevel] = []
    for parts in ordered:
        size_px = parts[0].size_px
        if not is_level_of(size_px, main.size_px) or (levels and size_px == levels[-1].size_px):
            continue
        level, choice = _level(parts, start_of)
        if not levels and choice.warning:
            warnings.append(choice.warning)
        levels.append(level)
    beside = sum(parts[0].size_px == main.size_px for parts in ordered) - 1
    if beside:
        warnings.append(
            f"the series has {beside} more pictures of the slide's size, such as of other focal "
            "planes or stains, which were not read"
        )
    return DicomPyramid(tuple(levels), paths, main.mpp, tuple(warnings))


def _in_order(parts: list[Instance]) -> list[Instance]:
    """The parts of a concatenation, by their frames. Raises SlideOpenError if one is missing."""
    parts = sorted(parts, key=lambda one: one.first_frame)
    following, last = 0, parts[-1].part
    for one in parts:
        if one.first_frame != following:
            break
        following += one.frames
    else:
        if last[1] in (0, len(parts)):
            return parts
    there = {one.part[0] for one in parts}
    missing = next(number for number in range(1, len(parts) + 2) if number not in there)
    raise SlideOpenError(
        f"{parts[0].path}: part {missing} of {last[1] or 'several'} of its picture of "
        f"{parts[0].size_px[0]} x {parts[0].size_px[1]} px is missing; copy all files of the series"
    )


def _level(parts: Sequence[Instance], start_of: dict[str, int]) -> tuple[TiledLevel, _Choice]:
    first = parts[0]
    if len({(one.tile_px, one.syntax, one.photometric, one.planes) for one in parts}) > 1:
        raise ValueError("its parts are stored in different ways")
    columns, rows = (
        -(-side // tile) for side, tile in zip(first.size_px, first.tile_px, strict=True)
    )
    frames, choice = _frames_of_tiles(parts, columns, rows)
    present = frames >= 0
    offsets, byte_counts = [], []
    for plane in range(first.planes):
        places = np.concatenate(
            [_of_plane(one, one.offsets, plane) + start_of[one.uid] for one in parts]
        )
        lengths = np.concatenate([_of_plane(one, one.byte_counts, plane) for one in parts])
        offsets.append(np.where(present, places[frames], 0))
        byte_counts.append(np.where(present, lengths[frames], 0))
    level = TiledLevel(
        first.size_px,
        first.tile_px,
        np.concatenate(offsets),
        np.concatenate(byte_counts),
        decoder_of(first.syntax, first.photometric),
        planes=first.planes,
        unwrap=without_heads if is_encapsulated(first.syntax) else None,
    )
    return level, choice


def _of_plane(one: Instance, values: Int64Array, plane: int) -> Int64Array:
    return values[plane * one.frames : (plane + 1) * one.frames]


def _frames_of_tiles(
    parts: Sequence[Instance], columns: int, rows: int
) -> tuple[Int64Array, _Choice]:
    """The number of each tile's frame int64 [rows * columns], -1 where it is missing."""
    first, frames, tiles = parts[0], sum(one.frames for one in parts), columns * rows
    path = next((n for n, name in enumerate(first.optical_paths) if name in first.brightfield), 0)
    if first.places is None:
        choice = _Choice(
            path, first.focal_planes // 2, len(first.optical_paths), first.focal_planes
        )
        if frames != tiles * choice.depths * choice.paths:
            raise ValueError(f"{frames} frames for {tiles * choice.depths * choice.paths} places")
        start = (choice.path * choice.depths + choice.depth) * tiles
        return np.arange(start, start + tiles, dtype=np.int64), choice
    found = np.full(tiles, -1, dtype=np.int64)
    places = [place for one in parts for place in one.places or ()]
    names = sorted({place.path for place in places})
    lit = [name for name in names if name in first.brightfield] or names
    depths = sorted({place.depth for place in places if place.path == lit[0]})
    depth = depths[len(depths) // 2]
    for number, place in enumerate(places):
        if place.path == lit[0] and place.depth == depth:
            if place.column >= columns or place.row >= rows:
                raise ValueError("frames that lie outside of the picture")
            found[place.row * columns + place.column] = number
    return found, _Choice(names.index(lit[0]), depths.index(depth), len(names), len(depths))
