"""Whose slide it was, read back from the structured report among its results: what is made of
several slides later needs neither these nor what was stated of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.errors import OutputError
from pathgene_rt.report.dicom.source import MAY_BE_EMPTY

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SPECIMEN_UID, _SPECIMEN_ID, _CONTAINER_ID = "121039", "121041", "111700"
_FRAME_OF_REFERENCE, _ROWS, _COLUMNS = "112227", "110910", "110911"
"""Codes of DCM for the concepts of a report's specimen (TID 1009) and picture (TID 1602)."""


@dataclass(frozen=True)
class StoredSource:
    """``dataset`` has the patient, study and specimen, and of the picture what a report says of it,
    if it refers to one (``has_image``)."""

    dataset: Dataset
    has_image: bool


def stored_source(path: Path) -> StoredSource:
    """The source of the slide whose structured report is the file ``path``. Raises OutputError."""
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.errors import InvalidDicomError

    try:
        report = pydicom.dcmread(path)
        report.decode()
        made = Dataset()
        for name in (*MAY_BE_EMPTY, "StudyInstanceUID"):
            setattr(made, name, report.get(name))
        specimen = Dataset()
        specimen.SpecimenUID = _item(report, _SPECIMEN_UID).UID
        specimen.SpecimenIdentifier = _item(report, _SPECIMEN_ID).TextValue
        made.ContainerIdentifier = _item(report, _CONTAINER_ID).TextValue
        made.SpecimenDescriptionSequence = [specimen]
        evidence = report.get("CurrentRequestedProcedureEvidenceSequence")
        if evidence:
            series = evidence[0].ReferencedSeriesSequence[0]
            made.SeriesInstanceUID = series.SeriesInstanceUID
            (image,) = series.ReferencedSOPSequence
            made.SOPClassUID = image.ReferencedSOPClassUID
            made.SOPInstanceUID, made.Modality = image.ReferencedSOPInstanceUID, "SM"
            made.FrameOfReferenceUID = _item(report, _FRAME_OF_REFERENCE).UID
            made.Rows = _number(report, _ROWS)
            made.Columns = _number(report, _COLUMNS)
        else:
            # A document is made of a dataset that has these; it does not refer to them.
            made.SOPClassUID, made.SOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
            made.SeriesInstanceUID = report.SeriesInstanceUID
    except (OSError, InvalidDicomError, AttributeError, LookupError, ValueError) as error:
        raise OutputError(
            f"{path} is no structured report of a slide; predict it again with --dicom --overwrite"
        ) from error
    return StoredSource(made, bool(evidence))


def _item(report: Dataset, code: str) -> Dataset:
    """The first item of the content whose concept is ``code``. Raises LookupError."""
    for item in _items(report):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].get("CodeValue") == code:
            return item
    raise LookupError(code)


def _items(item: Dataset) -> Iterator[Dataset]:
    for part in item.get("ContentSequence") or ():
        yield part
        yield from _items(part)


def _number(report: Dataset, code: str) -> int:
    return int(_item(report, code).MeasuredValueSequence[0].NumericValue)
