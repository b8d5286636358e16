"""DICOM slides, written by pydicom in every way that ours are read."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big endian": "1.2.840.10008.1.2.2",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpegls": "1.2.840.10008.1.2.4.80",
    "j2k": "1.2.840.10008.1.2.4.90",
    "j2k lossy": "1.2.840.10008.1.2.4.91",
    "jpegxl": "1.2.840.10008.1.2.4.110",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
NATIVE = ("implicit", "explicit", "big endian")
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


@dataclass(frozen=True)
class DicomLayout:
    """How a slide is stored. ``sparse``: each frame says its place; ``missing`` are then left out.
    ``table``: of offsets, "basic", "extended", "none". ``fragments`` a frame. ``parts`` of a
    concatenation. Focal planes other than the middle one, and further optical paths, are darker.
    """

    syntax: str = "jpeg"
    photometric: str = "RGB"
    tile_px: int = 128
    sparse: bool = False
    missing: frozenset[int] = frozenset()
    table: str = "basic"
    fragments: int = 1
    parts: int = 1
    focal_planes: int = 1
    optical_paths: int = 1
    brightfield: int = 0
    planar: bool = False
    spacing_mm: tuple[float, float] = (0.0005, 0.0005)
    subsampling: str = "4:2:0"
    number: int = 1


def uid(*parts: int) -> str:
    return "1.2.826.0.1.3680043.8.498." + ".".join(map(str, parts))


def write_dicom(
    folder: Path, levels: Sequence[np.ndarray], layout: DicomLayout, name: str = "slide"
) -> list[Path]:
    """Write ``levels`` uint8 [h, w, 3] to ``layout.parts`` files each; these, finest first."""
    paths = []
    for number, pixels in enumerate(levels):
        factor = levels[0].shape[1] / pixels.shape[1]
        paths += _write_level(folder, f"{name}-{number}", pixels, layout, number, factor)
    return paths


def write_beside(folder: Path, name: str, kind: str, pixels: np.ndarray, number: int = 1) -> Path:
    """A LABEL or OVERVIEW of the same series."""
    layout = DicomLayout(tile_px=max(pixels.shape[:2]), syntax="explicit", number=number)
    return _write_level(folder, name, pixels, layout, 90, 1.0, kind=kind)[0]


def _write_level(
    folder: Path,
    name: str,
    pixels: np.ndarray,
    layout: DicomLayout,
    level: int,
    factor: float,
    kind: str = "VOLUME",
) -> list[Path]:
    from pydicom.dataset import Dataset

    side = layout.tile_px
    height, width = pixels.shape[:2]
    frames: list[tuple[bytes, int, int, float, int]] = []
    for path in range(layout.optical_paths):
        for depth in range(layout.focal_planes):
            own = path == layout.brightfield and depth == layout.focal_planes // 2
            shown = pixels if own else pixels // 2
            for top in range(0, height, side):
                for left in range(0, width, side):
                    tile = shown[top : top + side, left : left + side]
                    short = ((0, side - tile.shape[0]), (0, side - tile.shape[1]), (0, 0))
                    encoded = _encoded(np.pad(tile, short, mode="edge"), layout)
                    frames.append((encoded, left, top, depth * 1.5 - 3.0, path))
    frames = [frame for number, frame in enumerate(frames) if number not in layout.missing]
    size = -(-len(frames) // layout.parts)
    paths = []
    for part in range(layout.parts):
        own_frames = frames[part * size : (part + 1) * size]
        data = Dataset()
        data.SOPClassUID = _WHOLE_SLIDE
        data.SOPInstanceUID = uid(layout.number, level, part + 1)
        data.SeriesInstanceUID = uid(layout.number, 7)
        data.StudyInstanceUID = uid(layout.number, 8)
        data.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
        data.Modality = "SM"
        data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
        data.Rows = data.Columns = side
        data.NumberOfFrames = len(own_frames)
        data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 3, 8, 8, 7
        data.PixelRepresentation = 0
        data.PlanarConfiguration = int(layout.planar)
        data.PhotometricInterpretation = layout.photometric
        data.TotalPixelMatrixFocalPlanes = layout.focal_planes
        data.NumberOfOpticalPaths = layout.optical_paths
        data.OpticalPathSequence = [_optical_path(n, layout) for n in range(layout.optical_paths)]
        spacing = Dataset()
        spacing.PixelSpacing = [layout.spacing_mm[1] * factor, layout.spacing_mm[0] * factor]
        shared = Dataset()
        shared.PixelMeasuresSequence = [spacing]
        data.SharedFunctionalGroupsSequence = [shared]
        data.DimensionOrganizationType = "TILED_SPARSE" if layout.sparse else "TILED_FULL"
        if layout.sparse:
            data.PerFrameFunctionalGroupsSequence = [_place(*frame[1:]) for frame in own_frames]
        if layout.parts > 1:
            data.ConcatenationUID = uid(layout.number, level, 99)
            data.InConcatenationNumber = part + 1
            data.InConcatenationTotalNumber = layout.parts
            data.ConcatenationFrameOffsetNumber = part * size
        suffix = f"-{part}" if layout.parts > 1 else ""
        paths.append(
            _save(folder / f"{name}{suffix}.dcm", data, [f[0] for f in own_frames], layout)
        )
    return paths


def _save(path: Path, data: object, frames: list[bytes], layout: DicomLayout) -> Path:
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate, encapsulate_extended

    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = SYNTAXES[layout.syntax]
    data.file_meta.MediaStorageSOPClassUID = _WHOLE_SLIDE
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if layout.syntax in NATIVE:
        data.PixelData = b"".join(frames)
        data["PixelData"].VR = "OB"
    elif layout.table == "extended":
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        data.PixelData = encapsulate(
            frames, fragments_per_frame=layout.fragments, has_bot=layout.table == "basic"
        )
    if layout.syntax not in NATIVE:
        data["PixelData"].is_undefined_length = True
    if layout.syntax == "jpegxl":  # whose transfer syntaxes pydicom does not know
        data.file_meta.TransferSyntaxUID = SYNTAXES["htj2k"]
        data.save_as(path, enforce_file_format=True)
        said = SYNTAXES["htj2k"].encode(), SYNTAXES["jpegxl"].encode()
        path.write_bytes(path.read_bytes().replace(*said, 1))
    else:
        data.save_as(path, enforce_file_format=True)
    return path


def _optical_path(number: int, layout: DicomLayout) -> object:
    from pydicom.dataset import Dataset

    path, light = Dataset(), Dataset()
    path.OpticalPathIdentifier = str(number + 1)
    light.CodeValue = "111744" if number == layout.brightfield else "111743"
    light.CodingSchemeDesignator = "DCM"
    path.IlluminationTypeCodeSequence = [light]
    return path


def _place(left: int, top: int, depth: float, path: int) -> object:
    from pydicom.dataset import Dataset

    place, name, group = Dataset(), Dataset(), Dataset()
    place.ColumnPositionInTotalImagePixelMatrix = left + 1
    place.RowPositionInTotalImagePixelMatrix = top + 1
    place.ZOffsetInSlideCoordinateSystem = depth
    name.OpticalPathIdentifier = str(path + 1)
    group.PlanePositionSlideSequence = [place]
    group.OpticalPathIdentificationSequence = [name]
    return group


def _encoded(tile: np.ndarray, layout: DicomLayout) -> bytes:
    if layout.syntax == "jpeg":
        stream = io.BytesIO()
        rgb = layout.photometric == "RGB"
        subsampling = "4:4:4" if rgb else layout.subsampling
        Image.fromarray(tile).save(
            stream, "JPEG", quality=90, subsampling=subsampling, keep_rgb=rgb
        )
        return stream.getvalue()
    if layout.photometric == "YBR_FULL":
        tile = np.asarray(Image.fromarray(tile).convert("YCbCr"))
    if layout.syntax in NATIVE:
        return (np.moveaxis(tile, 2, 0) if layout.planar else tile).tobytes()
    import imagecodecs

    mct = layout.photometric in ("YBR_RCT", "YBR_ICT")
    encoders: dict[str, Callable[[], bytes]] = {
        "jpegls": lambda: imagecodecs.jpegls_encode(tile),
        "jpegxl": lambda: imagecodecs.jpegxl_encode(tile, lossless=True),
        "htj2k": lambda: imagecodecs.htj2k_encode(tile),
        "j2k": lambda: imagecodecs.jpeg2k_encode(
            tile, codecformat="J2K", mct=mct, reversible=True, level=0
        ),
        "j2k lossy": lambda: imagecodecs.jpeg2k_encode(
            tile, codecformat="J2K", mct=mct, reversible=False, level=45
        ),
    }
    return bytes(encoders[layout.syntax]())


def identify(paths: Sequence[Path], number: int = 1, **changes: object) -> None:
    """Give the files of a slide what real ones say of patient, study, specimen and glass; of
    ``changes``, values by keyword, None takes an attribute away."""
    import pydicom
    from pydicom.dataset import Dataset

    for path in paths:
        data = pydicom.dcmread(path)
        origin, specimen = Dataset(), Dataset()
        origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20.0, 45.0
        specimen.SpecimenIdentifier, specimen.SpecimenUID = f"B{number}", uid(number, 5)
        stated = {
            "SpecificCharacterSet": "ISO_IR 100",
            "PatientName": "Muster^Änne",
            "PatientID": f"MRN-{number}",
            "PatientBirthDate": "19500131",
            "PatientSex": "F",
            "StudyDate": "20260102",
            "StudyTime": "101112",
            "StudyID": f"S{number}",
            "AccessionNumber": f"ACC-{number}",
            "ReferringPhysicianName": "",
            "FrameOfReferenceUID": uid(number, 6),
            "PositionReferenceIndicator": "SLIDE_CORNER",
            "ImageOrientationSlide": [0.0, -1.0, 0.0, -1.0, 0.0, 0.0],
            "TotalPixelMatrixOriginSequence": [origin],
            "ContainerIdentifier": f"BARCODE-{number}",
            "SpecimenDescriptionSequence": [specimen],
            **changes,
        }
        for name, value in stated.items():
            if value is not None:
                setattr(data, name, value)
            elif name in data:
                delattr(data, name)
        data.save_as(path, enforce_file_format=True)
