"""``report.fhir.json``: the answers as a FHIR R4 bundle with a DiagnosticReport.

Written as plain JSON, for which no package is needed. Every observation says in code and text that
it was predicted and not assayed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from pathgene_rt.files import write_json
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.report import Report
from pathgene_rt.report.subject import NOBODY, Subject

FHIR_FILE = "report.fhir.json"

PRIVATE = "urn:x-pathgene-rt:codes"
LOINC, SNOMED, HGNC = "http://loinc.org", "http://snomed.info/sct", "http://www.genenames.org"
UCUM, DICOM_UID = "http://unitsofmeasure.org", "urn:dicom:uid"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_GENDERS = {"M": "male", "F": "female", "O": "other"}
_IDS = uuid.UUID("0d8a2a9c-9b0e-5a9f-8e0e-3c1b9f2f6a51")

Resource = dict[str, Any]


class FhirWriter:
    """Writes :func:`fhir_bundle`."""

    stale = (FHIR_FILE,)
    uses_overview = False

    def wanted(self, report: Report, options: PredictOptions) -> bool:  # noqa: ARG002
        return options.fhir

    def write(self, contents: ReportContents, folder: Path) -> Written:
        subject = NOBODY if contents.subject is None else contents.subject
        write_json(folder / FHIR_FILE, fhir_bundle(contents.report, subject))
        return Written(files={"fhir": FHIR_FILE})


def fhir_bundle(report: Report, subject: Subject = NOBODY) -> Resource:
    """``report`` as a Bundle of type collection: a DiagnosticReport, an Observation for each head,
    the Device that is the model, the Specimen, and the Patient where ``subject`` has an id.
    """
    names = ("report", "device", "specimen", "patient", *(one.head for one in report.predictions))
    seed = f"{report.provenance.bundle.sha256}/{report.slide_id}/{report.created}"
    ids = {name: str(uuid.uuid5(_IDS, f"{seed}/{place}")) for place, name in enumerate(names)}
    about: Resource = {"specimen": _reference(ids["specimen"])}
    resources = [_device(report), _specimen(report, subject)]
    kinds = ["device", "specimen"]
    if subject.patient_id:
        about["subject"] = _reference(ids["patient"])
        resources.append(_patient(subject))
        kinds.append("patient")
        resources[1]["subject"] = about["subject"]
    observations = [
        _observation(report, one) | about | {"device": _reference(ids["device"])}
        for one in report.predictions
    ]
    heads = [one.head for one in report.predictions]
    document = _diagnostic_report(report, subject) | about
    document["specimen"] = [about["specimen"]]
    document["result"] = [_reference(ids[head]) for head in heads]
    if not heads:
        del document["result"]
    entries = zip(["report", *heads, *kinds], [document, *observations, *resources], strict=True)
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": report.created,
        "entry": [
            {"fullUrl": f"urn:uuid:{ids[name]}", "resource": resource | {"id": ids[name]}}
            for name, resource in entries
        ],
    }


def _diagnostic_report(report: Report, subject: Subject) -> Resource:
    lines = [
        "Predicted by a computer model from the picture of a stained slide. Nothing was assayed.",
        report.intended_use,
        *(_line(one) for one in report.predictions),
        *report.warnings,
    ]
    if report.partial is not None:
        lines.insert(2, report.partial.describe())
    made: Resource = {
        "resourceType": "DiagnosticReport",
        "text": _narrative(lines),
        "status": "preliminary",
        "category": [_concept((f"{_TERMINOLOGY}/v2-0074", "PAT", None))],
        "code": _concept(
            (PRIVATE, "PREDICTION_REPORT", "Predictions from histology; nothing was assayed"),
            text="Predictions from histology by a computer model; nothing was assayed",
        ),
        "issued": report.created,
        "conclusion": " ".join(lines[:3] if report.partial else lines[:2]),
    }
    if subject.study_uid:
        identifier = {"system": DICOM_UID, "value": f"urn:oid:{subject.study_uid}"}
        made["imagingStudy"] = [{"type": "ImagingStudy", "identifier": identifier}]
    if subject.accession_number:
        kind = _concept((f"{_TERMINOLOGY}/v2-0203", "ACSN", None))
        identifier_of_order = {"type": kind, "value": subject.accession_number}
        made["basedOn"] = [{"type": "ServiceRequest", "identifier": identifier_of_order}]
    return made


def _observation(report: Report, prediction: Prediction) -> Resource:
    code, meaning = ours.FINDINGS[prediction.kind]
    about = " ".join(part for part in (prediction.gene, meaning.lower()) if part)
    decision = prediction.decision
    reasons = [one.text for one in decision.reasons] if decision else []
    made: Resource = {
        "resourceType": "Observation",
        "text": _narrative([_line(prediction), *reasons, report.intended_use]),
        "status": "preliminary",
        "category": [_concept((f"{_TERMINOLOGY}/observation-category", "imaging", "Imaging"))],
        "code": _concept(
            (PRIVATE, code, meaning), text=f"{about}; not assayed (head {prediction.head})"
        ),
        "method": _concept((PRIVATE, *ours.METHOD), text=ours.METHOD[1]),
        "issued": report.created,
        "note": [{"text": text} for text in (*reasons, report.intended_use)],
    }
    if prediction.withheld:
        unknown = (f"{_TERMINOLOGY}/data-absent-reason", "unknown", "Unknown")
        made["dataAbsentReason"] = _concept(
            unknown, (PRIVATE, *ours.WITHHELD), text=" ".join(["Withheld.", *reasons])
        )
    else:
        made["valueCodeableConcept"] = _call(prediction)
    components = [*_gene(prediction), *_figures(prediction)]
    if components:
        made["component"] = components
    return made


def _call(prediction: Prediction) -> Resource:
    decision = prediction.decision
    if decision is not None:
        value, meaning = ours.CALLS[decision.call]
        return _concept((SNOMED, value, meaning), text=prediction.call)
    classes = [
        (PRIVATE, f"CLASS_{place}", prediction.classes[place]) for place in prediction.called
    ]
    return _concept(*classes, text=prediction.call)


def _gene(prediction: Prediction) -> list[Resource]:
    gene = prediction.gene
    if gene is None:
        return []
    number = ours.HGNC_IDS.get(gene)
    known = [] if number is None else [(HGNC, f"HGNC:{number}", gene)]
    return [
        {
            "code": _concept((LOINC, "48018-6", "Gene studied [ID]")),
            "valueCodeableConcept": _concept(*known, text=gene),
        }
    ]


def _figures(prediction: Prediction) -> Iterable[Resource]:
    """Probabilities, intervals and cut-offs; none of an answer that is withheld."""
    if prediction.withheld:
        return
    intervals = prediction.interval or (None,) * len(prediction.classes)
    chances = zip(prediction.classes, prediction.probabilities, intervals, strict=True)
    for place, (name, probability, interval) in enumerate(chances):
        code = (PRIVATE, f"PROBABILITY_{place}", f"Probability of {name}")
        yield _number(code, probability)
        if interval is not None:
            low, high = interval
            ends = (PRIVATE, f"INTERVAL_{place}", f"95 % interval of the probability of {name}")
            yield {
                "code": _concept(ends, text=ends[2]),
                "valueRange": {"low": _quantity(low), "high": _quantity(high)},
            }
    zones = prediction.zones
    if zones is None:
        if prediction.threshold is not None:
            yield _number((PRIVATE, *ours.THRESHOLD), prediction.threshold)
        return
    for meaning, cut_off in ((ours.RULE_OUT, zones.rule_out), (ours.RULE_IN, zones.rule_in)):
        if cut_off is not None:
            yield _number((PRIVATE, *meaning), cut_off.value)


def _number(code: tuple[str, str, str], value: float) -> Resource:
    return {"code": _concept(code, text=code[2]), "valueQuantity": _quantity(value)}


def _quantity(value: float) -> Resource:
    return {"value": round(float(value), 6), "system": UCUM, "code": "1"}


def _device(report: Report) -> Resource:
    bundle, site = report.provenance.bundle, report.provenance.site
    by_site = "" if site is None else f"; calibrated by the site profile {site.name} {site.sha256}"
    return {
        "resourceType": "Device",
        "manufacturer": "pathgene-rt",
        "serialNumber": bundle.sha256,
        "deviceName": [{"name": bundle.name, "type": "model-name"}],
        "version": [{"value": bundle.version}],
        "note": [{"text": f"bundle sha256 {bundle.sha256}; {report.intended_use}{by_site}"}],
    }


def _specimen(report: Report, subject: Subject) -> Resource:
    made: Resource = {
        "resourceType": "Specimen",
        "identifier": [{"value": subject.specimen_id or report.slide_id}],
    }
    if subject.container_id:
        made["container"] = [{"identifier": [{"value": subject.container_id}]}]
    return made


def _patient(subject: Subject) -> Resource:
    made: Resource = {"resourceType": "Patient", "identifier": [{"value": subject.patient_id}]}
    family, _, given = subject.name.partition("=")[0].partition("^")
    if family or given:
        parts = [part for part in given.split("^") if part]
        made["name"] = [{"family": family} if family else {}]
        if parts:
            made["name"][0]["given"] = parts
    if len(subject.birth_date) == 8:
        date = subject.birth_date
        made["birthDate"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    if subject.sex in _GENDERS:
        made["gender"] = _GENDERS[subject.sex]
    return made


def _line(prediction: Prediction) -> str:
    about = f"{prediction.gene} ({prediction.head})" if prediction.gene else prediction.head
    return f"{about}, predicted, not assayed: {prediction.call}."


def _narrative(lines: Iterable[str]) -> Resource:
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'
    return {"status": "generated", "div": div}


def _concept(*codings: tuple[str, str, str | None], text: str | None = None) -> Resource:
    made: Resource = {}
    if codings:
        made["coding"] = [
            {"system": system, "code": code} | ({"display": display} if display else {})
            for system, code, display in codings
        ]
    if text:
        made["text"] = text
    return made


def _reference(identity: str) -> Resource:
    return {"reference": f"urn:uuid:{identity}"}
