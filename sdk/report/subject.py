"""Whose slide it is, as far as the slide or the user says: for documents that may leave it open."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pathgene_rt.geometry import SlideInfo
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.dicom.context import DicomContext, read_context
from pathgene_rt.slides.dicom.header import read_dicom_header
from pathgene_rt.slides.given_slide import GivenSlide


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is not known is empty. Dates are YYYYMMDD, names family^given, ``sex`` M, F or O."""

    patient_id: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    study_uid: str = ""
    accession_number: str = ""
    container_id: str = ""
    specimen_id: str = ""


NOBODY = Subject()


def subject_of(path: Path | GivenSlide, info: SlideInfo, options: PredictOptions) -> Subject:
    """Of the slide ``path``: by the context, else by the slide itself if it is DICOM and the extra
    ``dicom`` is there; nobody under pseudonyms. Raises UsageError of a bad context.
    """
    if options.pseudonyms is not None:
        return NOBODY
    if options.dicom_context is not None:
        return _of_context(read_context(options.dicom_context, options.slide_id or info.slide_id))
    if isinstance(path, GivenSlide):
        return subject_of_dataset(path.datasets[0]) if path.datasets else NOBODY
    header = read_dicom_header(path)
    if header is None or not header.is_slide or find_spec("pydicom") is None:
        return NOBODY
    import pydicom

    return subject_of_dataset(pydicom.dcmread(path, stop_before_pixels=True))


def _of_context(context: DicomContext) -> Subject:
    return Subject(
        patient_id=context.patient.id,
        name=context.patient.name,
        birth_date=context.patient.birth_date,
        sex=context.patient.sex,
        study_uid=context.study.instance_uid,
        accession_number=context.study.accession_number,
        container_id=context.specimen.container_id,
        specimen_id=context.specimen.id,
    )


def subject_of_dataset(dataset: Any) -> Subject:
    """Of a slide's DICOM attributes."""
    specimens = dataset.get("SpecimenDescriptionSequence") or ()

    def text(name: str) -> str:
        value = dataset.get(name)
        return "" if value is None else str(value).strip()

    return Subject(
        patient_id=text("PatientID"),
        name=text("PatientName"),
        birth_date=text("PatientBirthDate"),
        sex=text("PatientSex"),
        study_uid=text("StudyInstanceUID"),
        accession_number=text("AccessionNumber"),
        container_id=text("ContainerIdentifier"),
        specimen_id=str(specimens[0].get("SpecimenIdentifier") or "") if specimens else "",
    )
