"""``report.fhir.json``: the answers as a FHIR R4 bundle with a DiagnosticReport.

Written as plain JSON, for which no package is needed.
"""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.files import write_json
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.fhir_parts import (
    TERMINOLOGY,
    Resource,
    Told,
    concept,
    device,
    diagnostic_report,
    document,
    observation,
    reference_to,
)
from pathgene_rt.report.report import Report
from pathgene_rt.report.subject import NOBODY, Subject

FHIR_FILE = "report.fhir.json"
DICOM_UID = "urn:dicom:uid"
_GENDERS = {"M": "male", "F": "female", "O": "other"}


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
    told = Told(
        subject=report.slide_id,
        bundle=report.provenance.bundle,
        site=report.provenance.site,
        intended_use=report.intended_use,
        created=report.created,
        warnings=report.warnings,
        partial=report.partial,
    )
    about: Resource = {"specimen": reference_to(told, "specimen")}
    others = {"device": device(told), "specimen": _specimen(report, subject)}
    if subject.patient_id:
        about["subject"] = others["specimen"]["subject"] = reference_to(told, "patient")
        others["patient"] = _patient(subject)
    of_model = {"device": reference_to(told, "device")}
    answers = {
        f"head {one.head}": observation(told, one) | about | of_model for one in report.predictions
    }
    whole = diagnostic_report(told, [(one, "") for one in report.predictions])
    whole |= _of_study(subject) | about | {"specimen": [about["specimen"]]}
    if answers:
        whole["result"] = [reference_to(told, name) for name in answers]
    return document(told, {"report": whole, **answers, **others})


def _of_study(subject: Subject) -> Resource:
    """The study and the order that a report answers."""
    made: Resource = {}
    if subject.study_uid:
        identifier = {"system": DICOM_UID, "value": f"urn:oid:{subject.study_uid}"}
        made["imagingStudy"] = [{"type": "ImagingStudy", "identifier": identifier}]
    if subject.accession_number:
        kind = concept((f"{TERMINOLOGY}/v2-0203", "ACSN", None))
        identifier_of_order = {"type": kind, "value": subject.accession_number}
        made["basedOn"] = [{"type": "ServiceRequest", "identifier": identifier_of_order}]
    return made


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
