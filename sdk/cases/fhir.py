"""A case as a FHIR R4 document with all its slides' specimens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathgene_rt.cases.dicom import answers_of_slides
from pathgene_rt.cases.report import CaseReport
from pathgene_rt.errors import BatchError, OutputError
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.fhir_parts import (
    Resource,
    Told,
    device,
    diagnostic_report,
    document,
    observation,
    reference_to,
)

_OF_ORDER = ("imagingStudy", "basedOn")


def read_fhir(path: Path) -> Resource:
    """A slide's FHIR document. Raises OutputError."""
    try:
        found: Resource = json.loads(path.read_bytes())
        if not _resources(found, "DiagnosticReport") or not _resources(found, "Specimen"):
            raise LookupError
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path} is no FHIR document of a slide; predict it again with --fhir --overwrite"
        ) from error
    return found


def case_fhir(report: CaseReport, slides: Sequence[Resource]) -> Resource:
    """``report`` as a Bundle of type collection: a DiagnosticReport, for each head an Observation
    for all tiles together, one for the mean, and one for each slide with its Specimen; the Device
    that is the model, and the Patient where ``slides``, the documents of the slides in their order,
    name one. Raises BatchError where they name different ones.
    """
    told = Told(
        subject=report.case_id,
        bundle=report.bundle,
        site=report.site,
        intended_use=report.intended_use,
        created=report.created,
        warnings=report.warnings,
    )
    specimens = {f"specimen {one.slide_id}": one.slide_id for one in report.slides}
    patient = _patient(report, slides)
    about = {} if patient is None else {"subject": reference_to(told, "patient")}
    others: dict[str, Resource] = {"device": device(told)}
    for name, slide in zip(specimens, slides, strict=True):
        (specimen,) = _resources(slide, "Specimen")
        others[name] = {**_without(specimen, "id", "subject"), **about}
    if patient is not None:
        others["patient"] = _without(patient, "id")
    about["device"] = reference_to(told, "device")
    answers: dict[str, Resource] = {}
    lines = []
    for both in report.predictions:
        head = both.pooled.head
        for of, one, method in (
            ("all tiles of the case", both.pooled, ours.CASE_POOLED),
            ("mean of the slides", both.mean, ours.CASE_MEAN),
        ):
            answers[f"{of}, {head}"] = observation(told, one, of, method) | about
            lines.append((one, of))
        for slide_id, one in answers_of_slides(report, both.slides):
            of = f"slide {slide_id}"
            place = {"specimen": reference_to(told, f"specimen {slide_id}")}
            answers[f"{of}, {head}"] = observation(told, one, of) | about | place
            lines.append((one, of))
    del about["device"]
    whole = diagnostic_report(told, lines) | about | _orders(slides)
    whole["specimen"] = [reference_to(told, name) for name in specimens]
    if answers:
        whole["result"] = [reference_to(told, name) for name in answers]
    return document(told, {"report": whole, **answers, **others})


def _patient(report: CaseReport, slides: Sequence[Resource]) -> Resource | None:
    """The one whom all documents name, or none of them does."""
    found: list[Resource | None] = [
        next(iter(_resources(slide, "Patient")), None) for slide in slides
    ]
    named = [None if one is None else one["identifier"] for one in found]
    for slide, one in zip(report.slides, named, strict=True):
        if one != named[0]:
            raise BatchError(
                f"no FHIR document: the slides {report.slides[0].slide_id} and {slide.slide_id} "
                "are of different patients; correct the table of cases, or the slides' context"
            )
    return found[0]


def _orders(slides: Sequence[Resource]) -> Resource:
    """The studies and orders of the slides' reports, each once."""
    made: Resource = {}
    for slide in slides:
        (report,) = _resources(slide, "DiagnosticReport")
        for key in _OF_ORDER:
            for one in report.get(key, ()):
                if one not in made.setdefault(key, []):
                    made[key].append(one)
    return made


def _resources(document: Resource, kind: str) -> list[Any]:
    found = (entry["resource"] for entry in document["entry"])
    return [one for one in found if one["resourceType"] == kind]


def _without(resource: Resource, *keys: str) -> Resource:
    return {key: value for key, value in resource.items() if key not in keys}
