"""A case as a DICOM report and a FHIR document: what they say, and of whose slides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import pydicom
from highdicom.sr import Comprehensive3DSR

from pathgene_rt.cases.dicom import case_document
from pathgene_rt.cases.fhir import case_fhir, read_fhir
from pathgene_rt.cases.files import CaseFiles, is_complete_case, remove_case, write_case
from pathgene_rt.cases.report import CaseReport
from pathgene_rt.errors import BatchError, OutputError
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.dicom.stored_source import stored_source
from pathgene_rt.report.subject import subject_of
from pathgene_rt.report.writer import write_report
from tests.cases.test_page import SLIDES, make_case
from tests.report.test_report import BAG, BUNDLE, INFO, make_report
from tests.support.dicom_context import write_context
from tests.support.dicom_reports import source_in

WANTED = CaseFiles(dicom=True, fhir=True)
SECOND = {
    "specimen__uid": "1.2.826.0.1.3680043.8.498.1.55",
    "specimen__id": "B2",
    "image__sop_instance_uid": "1.2.826.0.1.3680043.8.498.1.0.2",
    "image__series_instance_uid": "1.2.826.0.1.3680043.8.498.1.72",
}
"""What the second slide's context says otherwise."""


def write_slides(folder: Path, **changes: object) -> list[Path]:
    """The results of the case's two slides; ``changes`` of the second one's context."""
    options = PredictOptions(html=False, heatmaps=False, geojson=False, dicom=True, fhir=True)
    found = []
    for name, said in zip(SLIDES, ({}, {**SECOND, **changes}), strict=True):
        results = folder / name
        results.mkdir()
        report = make_report("egfr", slide_id=name)
        context = PredictOptions(dicom_context=write_context(results, **said))
        subject = subject_of(Path("slide.svs"), INFO, context)
        source = source_in(results, **said)
        write_report(report, results, None, INFO, BAG, options, dicom=source, subject=subject)
        found.append(results)
    return found


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_slides(tmp_path_factory.mktemp("results"))


def groups_of(report: CaseReport, slides: list[Path], path: Path) -> list:
    document = case_document(report, [stored_source(one / "report.dcm") for one in slides])
    document.save_as(path, enforce_file_format=True)
    read = Comprehensive3DSR.from_dataset(pydicom.dcmread(path))
    return read.content.get_image_measurement_groups()


def call(group: object) -> str:
    return next(
        one.value.meaning
        for one in group.get_qualitative_evaluations()
        if one.name.meaning == "Call of the model"
    )


def images(group: object) -> list[str]:
    return [one.referenced_sop_instance_uid for one in group.source_images]


def test_each_answer_refers_to_the_slides_it_is_of(slides: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    found = groups_of(make_case(), slides, path)
    assert [(one.method.value, call(one)) for one in found] == [
        ("CASE_POOLED", "mutated"),
        ("CASE_MEAN", "wild type"),
        ("NOT_ASSAYED", "mutated"),
        ("NOT_ASSAYED", "wild type"),
    ]
    first, second = (f"1.2.826.0.1.3680043.8.498.1.0.{number}" for number in (1, 2))
    assert [images(one) for one in found] == [[first, second], [first, second], [first], [second]]
    probabilities = [float(one.get_measurements()[0].value) for one in found]
    assert probabilities == [0.87, 0.47, 0.87, 0.07]
    made = pydicom.dcmread(path)
    assert (made.PatientID, str(made.PatientName)) == ("MRN-1", "Muster^Änne")
    assert made.AccessionNumber == "ACC-1"
    assert made.DeviceSerialNumber == BUNDLE
    text = made.to_json()
    assert "S1 a&b" in text and "tiles: 12 of 2 slides" in text
    assert "the mean of the slides is called wild type" in text
    evidence = [
        instance.ReferencedSOPInstanceUID
        for study in made.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert sorted(evidence) == [first, second]


def test_slides_of_another_study_are_other_evidence(tmp_path: Path) -> None:
    slides = write_slides(tmp_path, study__instance_uid="1.2.826.0.1.3680043.8.498.1.88")
    groups_of(make_case(), slides, tmp_path / "report.dcm")
    made = pydicom.dcmread(tmp_path / "report.dcm")
    (own,) = made.CurrentRequestedProcedureEvidenceSequence
    (other,) = made.PertinentOtherEvidenceSequence
    assert own.StudyInstanceUID == made.StudyInstanceUID
    assert other.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.1.88"


def test_a_slide_without_a_picture_is_named_and_not_referred_to(tmp_path: Path) -> None:
    slides = write_slides(tmp_path, image=None)
    found = groups_of(make_case(), slides, tmp_path / "report.dcm")
    assert [len(one.source_images) for one in found] == [1, 1, 1, 0]
    assert "S2" in pydicom.dcmread(tmp_path / "report.dcm").to_json()


def test_what_a_slides_report_withholds_is_not_told(slides: list[Path], tmp_path: Path) -> None:
    case = make_case()
    withheld = replace(case.slides[0], withheld=frozenset({"egfr"}))
    case = replace(case, slides=(withheld, case.slides[1]))
    found = groups_of(case, slides, tmp_path / "report.dcm")
    assert call(found[2]).startswith("Withheld")
    assert found[2].get_measurements() == []
    document = case_fhir(case, [read_fhir(one / "report.fhir.json") for one in slides])
    answers = [one["resource"] for one in document["entry"]]
    absent = [one for one in answers if "dataAbsentReason" in one]
    assert len(absent) == 1 and "slide S1 a&b" in absent[0]["code"]["text"]


def test_slides_of_different_patients_make_no_case(tmp_path: Path) -> None:
    slides = write_slides(tmp_path, patient__id="MRN-2")
    with pytest.raises(BatchError, match="S1 a&b and S2 are of different patients") as raised:
        write_case(make_case(), tmp_path / "case", slides, WANTED)
    assert "MRN" not in str(raised.value)
    with pytest.raises(BatchError, match=r"no FHIR document: .* different patients"):
        write_case(make_case(), tmp_path / "case", slides, CaseFiles(fhir=True))
    assert not (tmp_path / "case" / "case.json").exists()


def test_the_fhir_document_is_valid_and_has_every_specimen(slides: list[Path]) -> None:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="needs fhir.resources")
    document = case_fhir(make_case(), [read_fhir(one / "report.fhir.json") for one in slides])
    text = json.dumps(document)
    bundle.Bundle.model_validate_json(text)
    known = {entry["fullUrl"] for entry in document["entry"]}
    assert len(known) == len(document["entry"])
    named = [part.partition('"')[0] for part in text.split('"reference": "')[1:]]
    assert set(named) <= known
    found = [entry["resource"] for entry in document["entry"]]
    kinds = [one["resourceType"] for one in found]
    assert (kinds.count("Observation"), kinds.count("Specimen"), kinds.count("Patient")) == (
        4,
        2,
        1,
    )
    report = found[0]
    assert len(report["result"]) == 4 and len(report["specimen"]) == 2
    assert report["imagingStudy"][0]["identifier"]["value"].startswith("urn:oid:1.2.826")
    methods = [one["method"]["coding"][0]["code"] for one in found if "method" in one]
    assert methods == ["CASE_POOLED", "CASE_MEAN", "NOT_ASSAYED", "NOT_ASSAYED"]
    assert ["specimen" in one for one in found if "method" in one] == [False, False, True, True]


def test_a_case_without_what_is_wanted_is_not_complete(slides: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "case"
    case = make_case()
    write_case(case, folder, slides)
    assert is_complete_case(folder, BUNDLE, case.slides, CaseFiles())
    assert not is_complete_case(folder, BUNDLE, case.slides, CaseFiles(fhir=True))
    written = write_case(case, folder, slides, WANTED)
    assert written.files == {"dicom report": "report.dcm", "fhir": "report.fhir.json"}
    assert json.loads((folder / "case.json").read_text())["files"] == written.files
    assert is_complete_case(folder, BUNDLE, case.slides, WANTED)
    (folder / "report.dcm").unlink()
    assert not is_complete_case(folder, BUNDLE, case.slides, WANTED)
    remove_case(folder)
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []


def test_slides_predicted_without_documents_are_named(tmp_path: Path) -> None:
    (tmp_path / "report.dcm").write_bytes(b"no DICOM")
    with pytest.raises(OutputError, match="predict it again with --dicom --overwrite"):
        stored_source(tmp_path / "report.dcm")
    with pytest.raises(OutputError, match="predict it again with --fhir --overwrite"):
        read_fhir(tmp_path / "report.fhir.json")
