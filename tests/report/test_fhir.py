"""``report.fhir.json``: valid FHIR that says what was predicted of whom, and not assayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.bundle.zones import CutOff, DecisionZones
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Partial
from pathgene_rt.options import PredictOptions
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report.dicom.identity import Author, algorithm_parameters
from pathgene_rt.report.fhir import fhir_bundle
from pathgene_rt.report.report import Report
from pathgene_rt.report.subject import NOBODY, Subject, subject_of
from pathgene_rt.report.writer import write_report
from tests.report.test_report import BAG, BUNDLE, INFO, make_report, predicted
from tests.support.dicom_context import write_context

SUBJECT = Subject(
    patient_id="MRN-1",
    name="Muster^Änne^Maria",
    birth_date="19500131",
    sex="F",
    study_uid="1.2.3",
    accession_number="ACC-1",
    container_id="BARCODE-1",
    specimen_id="B1",
)
ZONES = DecisionZones(
    rule_out=CutOff(
        value=0.2, measure="sensitivity", at_least=0.9, confidence=0.95, cases=200, errors=3
    )
)
WITHHELD = replace(
    predicted("tp53"), withheld=(Reason(code="too_few_tiles", figures={"tiles": 6, "least": 100}),)
)


def reports() -> dict[str, Report]:
    none_called = replace(predicted("egfr"), called=(), zones=None)
    partial = Partial(tiles_done=3, tiles_total=6, why="the time is up")
    interval = ((0.1, 0.2), (0.8, 0.9))
    return {
        "plain": make_report(),
        "zones": make_report("egfr", predictions=(replace(predicted("egfr"), zones=ZONES),)),
        "withheld": make_report("tp53", predictions=(WITHHELD,)),
        "no class": make_report("egfr", predictions=(none_called,)),
        "no gene": make_report(
            "x", predictions=(replace(predicted("x"), gene=None, kind="other"),)
        ),
        "partial": make_report(
            "egfr", partial=partial, predictions=(replace(predicted("egfr"), interval=interval),)
        ),
        "escapes": make_report(warnings=("a <b> & c",), intended_use="Use <only> & never"),
        "no heads": make_report(predictions=(), attention={}),
    }


def resources(document: dict, kind: str) -> list[dict]:
    found = [entry["resource"] for entry in document["entry"]]
    return [one for one in found if one["resourceType"] == kind]


@pytest.mark.parametrize("subject", [SUBJECT, NOBODY, replace(SUBJECT, name="", birth_date="")])
@pytest.mark.parametrize("name", reports())
def test_documents_are_valid(name: str, subject: Subject) -> None:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="needs fhir.resources")
    document = fhir_bundle(reports()[name], subject)
    read = bundle.Bundle.model_validate_json(json.dumps(document))
    assert len(read.entry) == len(document["entry"])
    known = {entry["fullUrl"] for entry in document["entry"]}
    text = json.dumps(document)
    assert len(known) == len(document["entry"])
    for part in text.split('"reference": "')[1:]:
        assert part.partition('"')[0] in known


def test_a_resource_with_a_fault_is_found() -> None:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="needs fhir.resources")
    document = fhir_bundle(make_report())
    del resources(document, "Observation")[0]["status"]
    with pytest.raises(ValueError, match="status"):
        bundle.Bundle.model_validate_json(json.dumps(document))


def test_it_is_said_in_code_and_text_that_nothing_was_assayed() -> None:
    document = fhir_bundle(make_report(), SUBJECT)
    for one in resources(document, "Observation"):
        assert one["method"]["coding"][0]["code"] == "NOT_ASSAYED"
        assert one["code"]["coding"][0]["code"] == "PREDICTED_MUT"
        assert "not assayed" in one["code"]["text"]
        assert "predicted, not assayed" in one["text"]["div"]
        assert one["status"] == "preliminary"
        assert {"text": "Research use only. Not a diagnosis."} in one["note"]
    (report,) = resources(document, "DiagnosticReport")
    assert "Nothing was assayed. Research use only." in report["conclusion"]
    assert len(report["result"]) == 2


def test_each_head_has_its_answer() -> None:
    egfr, _ = resources(fhir_bundle(make_report()), "Observation")
    assert egfr["valueCodeableConcept"]["text"] == "mutated"
    values = {
        one["code"]["coding"][0]["code"]: one.get("valueQuantity", {}).get("value")
        for one in egfr["component"]
    }
    assert values == {
        "48018-6": None,
        "PROBABILITY_0": 0.13,
        "PROBABILITY_1": 0.87,
        "THRESHOLD": 0.5,
    }
    gene = egfr["component"][0]["valueCodeableConcept"]["coding"][0]
    assert gene == {"system": "http://www.genenames.org", "code": "HGNC:3236", "display": "EGFR"}


def test_a_decision_is_coded_and_a_withheld_answer_has_none() -> None:
    (zoned,) = resources(fhir_bundle(reports()["zones"]), "Observation")
    assert zoned["valueCodeableConcept"]["coding"][0]["code"] == "82334004"
    (withheld,) = resources(fhir_bundle(reports()["withheld"]), "Observation")
    assert "valueCodeableConcept" not in withheld
    assert withheld["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert "6 tiles are usable" in withheld["dataAbsentReason"]["text"]
    assert "0.87" not in json.dumps(withheld)


def test_of_whom_it_is() -> None:
    document = fhir_bundle(make_report(), SUBJECT)
    (patient,) = resources(document, "Patient")
    assert patient["identifier"] == [{"value": "MRN-1"}]
    assert patient["name"] == [{"family": "Muster", "given": ["Änne", "Maria"]}]
    assert (patient["birthDate"], patient["gender"]) == ("1950-01-31", "female")
    (device,) = resources(document, "Device")
    assert device["serialNumber"] == BUNDLE
    anonymous = fhir_bundle(make_report())
    assert resources(anonymous, "Patient") == []
    assert all("subject" not in one for one in resources(anonymous, "Observation"))


def test_it_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    options = PredictOptions(html=False, heatmaps=False, geojson=False, fhir=True)
    report = write_report(make_report(), tmp_path, None, INFO, BAG, options, subject=SUBJECT)
    assert report.files["fhir"] == "report.fhir.json"
    document = json.loads((tmp_path / "report.fhir.json").read_text(encoding="utf-8"))
    assert resources(document, "Patient")
    write_report(make_report(), tmp_path, None, INFO, BAG, replace(options, fhir=False))
    assert not (tmp_path / "report.fhir.json").exists()


def test_the_subject_is_the_contexts_and_nobody_under_pseudonyms(tmp_path: Path) -> None:
    slide = tmp_path / "slide-1.svs"
    slide.write_bytes(b"II*\0")
    stated = PredictOptions(fhir=True, dicom_context=write_context(tmp_path))
    assert subject_of(slide, INFO, stated).patient_id == "MRN-1"
    assert subject_of(slide, INFO, PredictOptions(fhir=True)) == NOBODY
    hidden = PredictOptions(fhir=True, pseudonyms=Pseudonyms.random())
    assert subject_of(slide, INFO, hidden) == NOBODY


def test_the_site_profile_is_named() -> None:
    profile = SiteIdentity(name="ward 3", sha256="cd" * 32, created="2026", slides=30, cases=30)
    report = make_report()
    report = replace(report, provenance=replace(report.provenance, site=profile))
    (device,) = resources(fhir_bundle(report), "Device")
    assert f"calibrated by the site profile ward 3 {'cd' * 32}" in device["note"][0]["text"]
    assert f"site profile sha256: {'cd' * 32}" in algorithm_parameters(Author.of(report), "egfr")
    assert "site" not in json.dumps(resources(fhir_bundle(make_report()), "Device"))
