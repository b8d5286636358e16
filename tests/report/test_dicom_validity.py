"""DICOM objects as validators see them, and over slides that another program converted."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from tests.cases.test_documents import write_slides
from tests.cases.test_page import make_case
from tests.report.test_fhir import reports as fhir_reports
from tests.report.test_report import make_report, predicted
from tests.support.dicom_reports import WHOLE_OUTPUT, source_in, written_objects
from tests.support.tools import require_package, require_program

pytestmark = pytest.mark.world

EXPECTED_NOTES = ("Unrecognized defined term", "not present in standard DICOM IOD")
"""What dciodvfy warns of: private codes, terms newer than it, and that annotations say of which
specimen they are."""


def dciodvfy_lines(path: Path) -> list[str]:
    """What dicom3tools' validator finds in the file ``path``."""
    program = require_program("dciodvfy", "dicom3tools")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def require_valid(path: Path) -> None:
    from tests.support.dicom_standard import validator_errors

    lines = dciodvfy_lines(path)
    assert [line for line in lines if line.startswith("Error")] == []
    warnings = [line for line in lines if line.startswith("Warning")]
    assert [line for line in warnings if not any(note in line for note in EXPECTED_NOTES)] == []
    require_package("dicom_validator")
    assert validator_errors(path) == []


def test_the_validators_find_what_is_wrong(tmp_path: Path) -> None:
    import pydicom

    written_objects(tmp_path)
    path = tmp_path / "attention_egfr.dcm"
    data = pydicom.dcmread(path)
    del data.FrameOfReferenceUID, data.ContentQualification
    data.save_as(path)
    with pytest.raises(AssertionError, match="FrameOfReferenceUID"):
        require_valid(path)
    from tests.support.dicom_standard import validator_errors

    assert len(validator_errors(path)) == 2


@pytest.mark.parametrize("image", [True, False])
def test_every_object_is_valid(tmp_path: Path, image: bool) -> None:
    require_package("weasyprint")
    source = source_in(tmp_path) if image else source_in(tmp_path, image=None)
    options = replace(WHOLE_OUTPUT, pdf=True)
    report = written_objects(tmp_path, options=options, source=source)
    names = [name for what, name in report.files.items() if what.startswith("dicom")]
    assert len(names) == (5 if image else 2)
    for name in names:
        require_valid(tmp_path / name)


def test_the_pdf_is_the_one_of_the_report(tmp_path: Path) -> None:
    import pydicom

    require_package("weasyprint")
    written_objects(tmp_path, options=replace(WHOLE_OUTPUT, pdf=True))
    data = pydicom.dcmread(tmp_path / "report_pdf.dcm")
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert data.EncapsulatedDocument[: data.EncapsulatedDocumentLength] == pdf
    assert data.DocumentTitle == "Research use only. Not a diagnosis."
    assert data.PatientID == "MRN-1"


def test_names_that_a_line_of_dicom_does_not_hold(tmp_path: Path) -> None:
    head = "egfr\\" + "x" * 100
    odd = replace(predicted("egfr", ("a\\b", "c" * 200)), head=head, gene="NEW\\GENE" + "y" * 20)
    report = make_report(head, predictions=(odd,), intended_use="Use\n" + "only \\ " * 40)
    bundle = replace(report.provenance.bundle, name="n\\" * 60, version="1\\2" * 30)
    report = replace(report, provenance=replace(report.provenance, bundle=bundle))
    written = written_objects(tmp_path, report)
    for what, name in written.files.items():
        if what.startswith("dicom"):
            require_valid(tmp_path / name)


@pytest.mark.parametrize("changes", [{}, {"study__instance_uid": "1.2.826.0.1.3680043.8.498.9"}])
def test_a_case_of_several_slides_is_valid(tmp_path: Path, changes: dict[str, str]) -> None:
    from pathgene_rt.cases.files import CaseFiles, write_case

    slides = write_slides(tmp_path, **changes)
    write_case(make_case(), tmp_path / "case", slides, CaseFiles(dicom=True))
    require_valid(tmp_path / "case" / "report.dcm")


@pytest.mark.parametrize("name", [name for name in fhir_reports() if name != "no heads"])
def test_reports_of_every_kind_of_answer_are_valid(tmp_path: Path, name: str) -> None:
    from pathgene_rt.report.dicom.structured_report import structured_report

    path = tmp_path / "report.dcm"
    made = structured_report(fhir_reports()[name], source_in(tmp_path))
    made.save_as(path, enforce_file_format=True)
    require_valid(path)
