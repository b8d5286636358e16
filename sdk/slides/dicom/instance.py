"""One file of a DICOM slide: its picture, how it is tiled, and where its frames lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.geometry import Int64Array
from pathgene_rt.slides.dicom.frames import encapsulated_frames, native_frames
from pathgene_rt.slides.dicom.transfer_syntax import is_encapsulated
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.tiff.encoded_tiles import UNKNOWN

MAX_FRAMES = 1 << 22
"""Of one file; as many as a TIFF directory may have tiles."""

MAX_FRAME_PX = 1 << 24

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_WANTED = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImageType",
    "Manufacturer",
    "Rows",
    "Columns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixColumns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "DimensionOrganizationType",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
    "OpticalPathSequence",
    "PixelSpacing",
    "ImagedVolumeWidth",
    "ImagedVolumeHeight",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "ExtendedOffsetTable",
]


@dataclass(frozen=True)
class Place:
    """Where a frame lies on the slide: the tile at ``column`` and ``row``, of the focal plane at
    ``depth`` (a number, or um above the glass) and the optical path ``path``.
    """

    column: int
    row: int
    depth: float
    path: str


@dataclass(frozen=True)
class Instance:
    """What one file says, checked against its size.

    ``size_px`` of the whole picture and ``tile_px`` of its frames are (w, h). ``mpp`` are um per
    pixel of it, x and y, in decimal digits. ``places`` has one of each frame, or is None where
    frames go row by row, then focal plane by plane, then path by path (TILED_FULL).
    ``first_frame`` counts those in earlier parts of the ``concatenation`` (its UID, else "").
    ``offsets`` and ``byte_counts`` int64 [planes * frames].
    """

    path: Path
    uid: str
    volume: bool
    vendor: str
    syntax: str
    photometric: str
    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    mpp: tuple[str | None, str | None]
    frames: int
    places: tuple[Place, ...] | None
    focal_planes: int
    optical_paths: tuple[str, ...]
    brightfield: frozenset[str]
    """Those of ``optical_paths`` that are lit from below, where any says how it is lit."""
    concatenation: str
    first_frame: int
    part: tuple[int, int]
    """Which one of how many of its concatenation, as far as it says."""
    planes: int
    offsets: Int64Array
    byte_counts: Int64Array
    extent: int
    """How many places there are, of bytes in a file, of which ``offsets`` count."""


def read_instance(path: Path) -> Instance:
    """The slide's file ``path``.

    Raises SlideOpenError where it claims what no slide has; ValueError where its pixels are stored
    in a way that is not read here: why.
    """
    import pydicom

    try:
        with path.open("rb") as file:
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_WANTED))
            syntax = str(data.file_meta.TransferSyntaxUID)
            return _checked(path, data, syntax, lambda *sizes: _pixels(path, file, data, *sizes))
    except (SlideOpenError, ValueError):
        raise
    except OSError as error:
        raise SlideOpenError(f"{path}: {error.strerror or error}; check the path") from error
    except Exception as error:
        # A parser of many things, fed with anything: what it raises is not a contract.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def instance_of_frames(name: Path, data: Any, syntax: str) -> Instance:
    """The instance with the attributes ``data``, whose frames in transfer ``syntax`` somebody else
    has: each frame's place is its number, from 0 on. ``name`` is what errors call it; raises as
    :func:`read_instance`.
    """
    if int(data.get("PlanarConfiguration") or 0) == 1 and not is_encapsulated(syntax):
        raise ValueError("colours in planes of their own")

    def numbered(syntax: str, tile_px: tuple[int, int], frames: int) -> _Pixels:
        del syntax, tile_px
        return 1, np.arange(frames, dtype=np.int64), np.full(frames, UNKNOWN, np.int64), frames

    try:
        return _checked(name, data, syntax, numbered)
    except (SlideOpenError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


_Pixels = tuple[int, Int64Array, Int64Array, int]
"""Planes of a frame, places and lengths of all, and how many places there are."""


def _checked(
    path: Path,
    data: Any,
    syntax: str,
    find_pixels: Callable[[str, tuple[int, int], int], _Pixels],
) -> Instance:
    size_px = checked_size(
        path, (int(data.TotalPixelMatrixColumns), int(data.TotalPixelMatrixRows))
    )
    tile_px = (int(data.Columns), int(data.Rows))
    frames = int(data.get("NumberOfFrames") or 1)
    if not (min(tile_px) > 0 and tile_px[0] * tile_px[1] <= MAX_FRAME_PX):
        raise SlideOpenError(
            f"{path}: claims frames of {tile_px[0]} x {tile_px[1]} px; up to {MAX_FRAME_PX} px in "
            "all are read: the file is damaged, or convert it"
        )
    if not 0 < frames <= MAX_FRAMES:
        raise SlideOpenError(
            f"{path}: claims {frames} frames; up to {MAX_FRAMES} are read: the file is damaged"
        )
    samples, bits = int(data.SamplesPerPixel), int(data.BitsAllocated)
    if (samples, bits) == (1, 8):
        raise ValueError("a grey picture")
    if (samples, bits) != (3, 8):
        raise ValueError(f"{samples} samples of {bits} bits a pixel")
    shared = _item(data, "SharedFunctionalGroupsSequence")
    paths = tuple(str(one.OpticalPathIdentifier) for one in data.get("OpticalPathSequence") or ())
    tiled_full = str(data.get("DimensionOrganizationType", "")) == "TILED_FULL"
    planes, offsets, byte_counts, extent = find_pixels(syntax, tile_px, frames)
    return Instance(
        path,
        str(data.SOPInstanceUID),
        "VOLUME" in list(data.get("ImageType") or ()),
        str(data.get("Manufacturer") or ""),
        syntax,
        str(data.PhotometricInterpretation),
        size_px,
        tile_px,
        _mpp(data, shared, size_px),
        frames,
        None if tiled_full else _places(data, shared, tile_px, frames),
        int(data.get("TotalPixelMatrixFocalPlanes") or 1),
        paths or ("",),
        _brightfield(data),
        str(data.get("ConcatenationUID") or ""),
        int(data.get("ConcatenationFrameOffsetNumber") or 0),
        (
            int(data.get("InConcatenationNumber") or 1),
            int(data.get("InConcatenationTotalNumber") or 0),
        ),
        planes,
        offsets,
        byte_counts,
        extent,
    )


def _pixels(
    path: Path, file: BinaryIO, data: Any, syntax: str, tile_px: tuple[int, int], frames: int
) -> _Pixels:
    """The planes of each frame, and the places and lengths of all: of native frames the bytes
    themselves, of others the items that hold them. The file stands at its pixels.
    """
    at = file.tell()
    file_bytes = path.stat().st_size
    # Group and element, then of explicit syntaxes the representation: OB or OW, and two bytes.
    head = file.read(12)
    big = syntax == "1.2.840.10008.1.2.2"
    if head[:4] != (b"\x7f\xe0\x00\x10" if big else _PIXEL_DATA):
        raise ValueError("no pixel data where they should be")
    length_at = 4 if syntax == "1.2.840.10008.1.2" else 8
    length = int.from_bytes(head[length_at : length_at + 4], "big" if big else "little")
    start = at + length_at + 4
    if is_encapsulated(syntax):
        table = data.get("ExtendedOffsetTable") or b""
        extended = tuple(np.frombuffer(table[: len(table) // 8 * 8], "<u8").tolist())
        try:
            return 1, *encapsulated_frames(file, start, frames, extended), file_bytes
        except ValueError as error:
            # Damage, of which OpenSlide is not asked: on some it ends the process.
            raise SlideOpenError(
                f"{path}: a DICOM slide, but {error}; the file is damaged: copy it again"
            ) from error
    frame_bytes = tile_px[0] * tile_px[1] * 3
    file.seek(0, 2)
    if length < frames * frame_bytes or start + frames * frame_bytes > file.tell():
        raise ValueError(f"{frames} frames need {frames * frame_bytes} bytes, of which some lack")
    planes = 3 if int(data.get("PlanarConfiguration") or 0) == 1 else 1
    return planes, *native_frames(start, frames, frame_bytes, planes), file_bytes


def _mpp(data: Any, shared: Any, size_px: tuple[int, int]) -> tuple[str | None, str | None]:
    """Of PixelSpacing (mm, down then across), else of the size of the imaged volume."""
    measures = _item(shared, "PixelMeasuresSequence") or data
    spacing = measures.get("PixelSpacing")
    if spacing is not None and len(spacing) == 2:
        return f"{float(spacing[1]) * 1000:.10g}", f"{float(spacing[0]) * 1000:.10g}"
    volume = data.get("ImagedVolumeWidth"), data.get("ImagedVolumeHeight")
    if volume[0] and volume[1]:
        width, height = (
            f"{float(mm) * 1000 / side:.10g}" for mm, side in zip(volume, size_px, strict=True)
        )
        return width, height
    return None, None


def _places(data: Any, shared: Any, tile_px: tuple[int, int], frames: int) -> tuple[Place, ...]:
    """Of the frames of TILED_SPARSE. Raises ValueError where they are not on a grid."""
    groups: Sequence[Any] = data.get("PerFrameFunctionalGroupsSequence") or ()
    if len(groups) != frames:
        raise ValueError(f"{len(groups)} places for {frames} frames")
    shared_path = _item(shared, "OpticalPathIdentificationSequence")
    places = []
    for group in groups:
        at = _item(group, "PlanePositionSlideSequence")
        if at is None:
            raise ValueError("a frame without its place")
        left = int(at.ColumnPositionInTotalImagePixelMatrix) - 1
        top = int(at.RowPositionInTotalImagePixelMatrix) - 1
        if left % tile_px[0] or top % tile_px[1] or left < 0 or top < 0:
            raise ValueError("frames that lie on no grid")
        path = _item(group, "OpticalPathIdentificationSequence") or shared_path
        name = "" if path is None else str(path.get("OpticalPathIdentifier", ""))
        depth = float(at.get("ZOffsetInSlideCoordinateSystem") or 0)
        places.append(Place(left // tile_px[0], top // tile_px[1], depth, name))
    return tuple(places)


_BRIGHTFIELD = frozenset({"111741", "111744"})
"""Of DCM: transmission and brightfield illumination (PS3.16, CID 8123)."""


def _brightfield(data: Any) -> frozenset[str]:
    found = set()
    for path in data.get("OpticalPathSequence") or ():
        codes = path.get("IlluminationTypeCodeSequence") or ()
        if any(str(code.get("CodeValue")) in _BRIGHTFIELD for code in codes):
            found.add(str(path.OpticalPathIdentifier))
    return frozenset(found)


def _item(data: Any, name: str) -> Any:
    """The first item of the sequence ``name``, None where there is none."""
    items = None if data is None else data.get(name)
    return items[0] if items else None
