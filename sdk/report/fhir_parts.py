"""What FHIR documents of a slide and of a case are made of: resources as plain JSON.

Every observation says in code and text that it was predicted and not assayed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.heads.prediction import Partial, Prediction
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.report import BundleIdentity

PRIVATE = "urn:x-pathgene-rt:codes"
LOINC, SNOMED, HGNC = "http://loinc.org", "http://snomed.info/sct", "http://www.genenames.org"
UCUM = "http://unitsofmeasure.org"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_IDS = uuid.UUID("0d8a2a9c-9b0e-5a9f-8e0e-3c1b9f2f6a51")

Resource = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a document tells beside its answers. ``subject`` is the slide's or case's id."""

    subject: str
    bundle: BundleIdentity
    site: SiteIdentity | None
    intended_use: str
    created: str
    warnings: tuple[str, ...] = ()
    partial: Partial | None = None


def document(told: Told, resources: Mapping[str, Resource]) -> Resource:
    """A Bundle of type collection of ``resources`` by name, whose ids are those of
    :func:`reference_to`."""
    entries = [(resource_id(told, name), resource) for name, resource in resources.items()]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": told.created,
        "entry": [
            {"fullUrl": f"urn:uuid:{identity}", "resource": resource | {"id": identity}}
            for identity, resource in entries
        ],
    }


def resource_id(told: Told, name: str) -> str:
    """The same for one resource of one report."""
    seed = f"{told.bundle.sha256}/{told.subject}/{told.created}"
    return str(uuid.uuid5(_IDS, f"{seed}/{name}"))


def reference_to(told: Told, name: str) -> Resource:
    return {"reference": f"urn:uuid:{resource_id(told, name)}"}


def diagnostic_report(told: Told, lines_of: Iterable[tuple[Prediction, str]]) -> Resource:
    """What is said of all answers together: of each with what it is of ("" for the whole)."""
    lines = [
        "Predicted by a computer model from the picture of a stained slide. Nothing was assayed.",
        told.intended_use,
        *(_line(one, of) for one, of in lines_of),
        *told.warnings,
    ]
    if told.partial is not None:
        lines.insert(2, told.partial.describe())
    return {
        "resourceType": "DiagnosticReport",
        "text": _narrative(lines),
        "status": "preliminary",
        "category": [concept((f"{TERMINOLOGY}/v2-0074", "PAT", None))],
        "code": concept(
            (PRIVATE, "PREDICTION_REPORT", "Predictions from histology; nothing was assayed"),
            text="Predictions from histology by a computer model; nothing was assayed",
        ),
        "issued": told.created,
        "conclusion": " ".join(lines[:3] if told.partial else lines[:2]),
    }


def observation(
    told: Told, prediction: Prediction, of: str = "", method: tuple[str, str] = ours.METHOD
) -> Resource:
    """A head's answer, which ``method`` gave; ``of`` says of what, where it is not of all."""
    code, meaning = ours.FINDINGS[prediction.kind]
    about = " ".join(part for part in (prediction.gene, meaning.lower()) if part)
    decision = prediction.decision
    reasons = [one.text for one in decision.reasons] if decision else []
    made: Resource = {
        "resourceType": "Observation",
        "text": _narrative([_line(prediction, of), *reasons, told.intended_use]),
        "status": "preliminary",
        "category": [concept((f"{TERMINOLOGY}/observation-category", "imaging", "Imaging"))],
        "code": concept(
            (PRIVATE, code, meaning),
            text=f"{about}; not assayed (head {prediction.head}){of and f', {of}'}",
        ),
        "method": concept((PRIVATE, *method), text=method[1]),
        "issued": told.created,
        "note": [{"text": text} for text in (*reasons, told.intended_use)],
    }
    if prediction.withheld:
        unknown = (f"{TERMINOLOGY}/data-absent-reason", "unknown", "Unknown")
        made["dataAbsentReason"] = concept(
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
        return concept((SNOMED, value, meaning), text=prediction.call)
    classes = [
        (PRIVATE, f"CLASS_{place}", prediction.classes[place]) for place in prediction.called
    ]
    return concept(*classes, text=prediction.call)


def _gene(prediction: Prediction) -> list[Resource]:
    gene = prediction.gene
    if gene is None:
        return []
    number = ours.HGNC_IDS.get(gene)
    known = [] if number is None else [(HGNC, f"HGNC:{number}", gene)]
    return [
        {
            "code": concept((LOINC, "48018-6", "Gene studied [ID]")),
            "valueCodeableConcept": concept(*known, text=gene),
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
                "code": concept(ends, text=ends[2]),
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
    return {"code": concept(code, text=code[2]), "valueQuantity": _quantity(value)}


def _quantity(value: float) -> Resource:
    return {"value": round(float(value), 6), "system": UCUM, "code": "1"}


def device(told: Told) -> Resource:
    """The model."""
    bundle, site = told.bundle, told.site
    by_site = "" if site is None else f"; calibrated by the site profile {site.name} {site.sha256}"
    return {
        "resourceType": "Device",
        "manufacturer": "pathgene-rt",
        "serialNumber": bundle.sha256,
        "deviceName": [{"name": bundle.name, "type": "model-name"}],
        "version": [{"value": bundle.version}],
        "note": [{"text": f"bundle sha256 {bundle.sha256}; {told.intended_use}{by_site}"}],
    }


def _line(prediction: Prediction, of: str) -> str:
    about = f"{prediction.gene} ({prediction.head})" if prediction.gene else prediction.head
    return f"{about}{of and f', {of}'}, predicted, not assayed: {prediction.call}."


def _narrative(lines: Iterable[str]) -> Resource:
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'
    return {"status": "generated", "div": div}


def concept(*codings: tuple[str, str, str | None], text: str | None = None) -> Resource:
    made: Resource = {}
    if codings:
        made["coding"] = [
            {"system": system, "code": code} | ({"display": display} if display else {})
            for system, code, display in codings
        ]
    if text:
        made["text"] = text
    return made
