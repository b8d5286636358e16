"""The patient, study, specimen and picture that a slide's results belong to: its own, if it is
DICOM, else those that the user states. Nothing else is put in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import SlideError, UsageError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.dicom.context import DicomContext, ImageContext, read_context
from pathgene_rt.slides.dicom.header import WHOLE_SLIDE, read_dicom_header
from pathgene_rt.slides.dicom.opening import series_files
from pathgene_rt.slides.given_slide import GivenSlide

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Of type 2 in the objects (PS3.3): empty where they are not known."""

REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
REQUIRED_OF_SPECIMEN = ("ContainerIdentifier", "SpecimenDescriptionSequence")
REQUIRED_OF_IMAGE = (
    "FrameOfReferenceUID",
    "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
)


@dataclass(frozen=True)
class DicomSource:
    """``dataset`` has the attributes of the slide's picture in full resolution, without pixels, of
    ``size_px`` (w, h). Where ``has_image`` is false nobody said which picture that is: only the
    patient, study and specimen in it are true. ``spacing_mm`` between rows, then columns.
    """

    dataset: Dataset
    has_image: bool
    size_px: tuple[int, int]
    spacing_mm: tuple[float, float]

    def places_mm(self, at_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where on the glass ``at_px`` [n, 2] (x, y) of the picture lie, float64 [n, 3]: (0, 0) is
        the centre of its first pixel, as DICOM gives places (PS3.3, C.7.6.2.1.1 and C.8.12.2).
        """
        origin = self.dataset.TotalPixelMatrixOriginSequence[0]
        first = [origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem]
        along = np.array(self.dataset.ImageOrientationSlide, np.float64).reshape(2, 3)
        between_rows, between_columns = self.spacing_mm
        steps = np.array([between_columns, between_rows], np.float64)
        places: NDArray[np.float64] = (at_px * steps) @ along
        places[:, :2] += np.array(first, np.float64)
        return places


def find_source(path: Path | GivenSlide, info: SlideInfo, options: PredictOptions) -> DicomSource:
    """The source of the slide ``path``. Raises UsageError without a context where one is needed,
    and of a bad one; SlideError where the slide itself lacks what its results need.
    """
    if options.dicom_context is not None:
        slide_id = options.slide_id or info.slide_id
        return source_of_context(read_context(options.dicom_context, slide_id), info)
    if isinstance(path, GivenSlide):
        return source_of_series(list(path.datasets), info)
    header = read_dicom_header(path)
    if header is None or not header.is_slide:
        raise SlideError(
            f"{info.slide_id}: is no DICOM slide, so it does not say whose it is, and --dicom needs"
            " patient, study and specimen; give --dicom-context FILE.json (docs/dicom.md)"
        )
    import pydicom

    datasets = [
        pydicom.dcmread(one, stop_before_pixels=True)
        for one in series_files(path, header.series)
        if (part := read_dicom_header(one)) is not None and part.volume
    ]
    return source_of_series(datasets, info)


def source_of_series(datasets: list[Any], info: SlideInfo) -> DicomSource:
    """Of ``datasets``, the pictures of a DICOM slide without pixels, the one of the size of
    ``info``. Raises SlideError.
    """
    fitting = [one for one in datasets if _size_px(one) == info.size_px]
    if not fitting:
        raise SlideError(
            f"{info.slide_id}: none of its DICOM files has the slide's {info.size_px[0]} x "
            f"{info.size_px[1]} px; copy all files of the series"
        )
    dataset = min(fitting, key=lambda one: int(one.get("InConcatenationNumber") or 1))
    wanted = (*REQUIRED, *REQUIRED_OF_SPECIMEN, *REQUIRED_OF_IMAGE)
    missing = [name for name in wanted if not dataset.get(name)]
    spacing = _spacing_mm(dataset)
    if spacing is None:
        missing.append("PixelSpacing")
    specimens = dataset.get("SpecimenDescriptionSequence") or ()
    missing += [
        f"SpecimenDescriptionSequence.{name}"
        for name in ("SpecimenIdentifier", "SpecimenUID")
        if any(not one.get(name) for one in specimens)
    ]
    if missing or spacing is None:
        raise SlideError(
            f"{info.slide_id}: the DICOM slide lacks {', '.join(missing)}, which its results need; "
            "correct it at its source, or give --dicom-context FILE.json"
        )
    dataset.decode()  # by its own character set, for objects are written in another
    for name in MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, None)
    for specimen in specimens:
        for name in ("IssuerOfTheSpecimenIdentifierSequence", "SpecimenPreparationSequence"):
            if name not in specimen:
                setattr(specimen, name, [])
    return DicomSource(dataset, has_image=True, size_px=info.size_px, spacing_mm=spacing)


def source_of_context(context: DicomContext, info: SlideInfo) -> DicomSource:
    """What ``context`` states of the slide ``info``. Raises UsageError where it is another's."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.Modality = WHOLE_SLIDE, "SM"
    data.PatientID, data.PatientName = context.patient.id, context.patient.name
    data.PatientBirthDate, data.PatientSex = context.patient.birth_date, context.patient.sex
    study = context.study
    data.StudyInstanceUID, data.StudyID = study.instance_uid, study.id
    data.StudyDate, data.StudyTime = study.date, study.time
    data.AccessionNumber = study.accession_number
    data.ReferringPhysicianName = study.referring_physician
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = context.specimen.id, context.specimen.uid
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    if context.specimen.description:
        specimen.SpecimenShortDescription = context.specimen.description
    data.ContainerIdentifier = context.specimen.container_id
    data.IssuerOfTheContainerIdentifierSequence = []
    data.ContainerTypeCodeSequence = []
    data.SpecimenDescriptionSequence = [specimen]
    image = context.image
    mm = (info.mpp or 0.0) / 1000
    spacing = (mm, mm) if image is None else image.pixel_spacing_mm
    if image is None:
        # Objects are made of a dataset that has these; none that would hold them is written.
        data.SOPInstanceUID = data.SeriesInstanceUID = data.FrameOfReferenceUID = generate_uid(None)
    else:
        _check_spacing(image, info)
        _add_image(data, image, info)
    return DicomSource(data, image is not None, info.size_px, spacing)


def _check_spacing(image: ImageContext, info: SlideInfo) -> None:
    """Raise UsageError where the picture's scale is not the slide's, so it is another picture."""
    if info.mpp is None:
        return
    for spacing in image.pixel_spacing_mm:
        if abs(spacing * 1000 - info.mpp) > 0.05 * info.mpp:
            raise UsageError(
                f"--dicom-context: image.pixel_spacing_mm says {spacing * 1000:g} um/px, and the "
                f"slide {info.slide_id} has {info.mpp:g}; name the picture in full resolution"
            )


def _add_image(data: Dataset, image: ImageContext, info: SlideInfo) -> None:
    from pydicom.dataset import Dataset

    data.SOPInstanceUID = image.sop_instance_uid
    data.SeriesInstanceUID = image.series_instance_uid
    data.FrameOfReferenceUID = image.frame_of_reference_uid
    data.PositionReferenceIndicator = "SLIDE_CORNER"
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = info.size_px
    data.Rows = data.Columns = 256
    data.NumberOfFrames = -(-info.size_px[0] // 256) * -(-info.size_px[1] // 256)
    data.DimensionOrganizationType = "TILED_FULL"
    data.ImageOrientationSlide = list(image.orientation)
    origin, measures, shared = Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = image.origin_mm
    data.TotalPixelMatrixOriginSequence = [origin]
    measures.PixelSpacing = list(image.pixel_spacing_mm)
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]


def _size_px(dataset: Any) -> tuple[int, int]:
    return (
        int(dataset.get("TotalPixelMatrixColumns") or 0),
        int(dataset.get("TotalPixelMatrixRows") or 0),
    )


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    groups = dataset.get("SharedFunctionalGroupsSequence") or ()
    measures = (groups[0].get("PixelMeasuresSequence") or ()) if groups else ()
    spacing = measures[0].get("PixelSpacing") if measures else None
    return None if not spacing else (float(spacing[0]), float(spacing[1]))
