"""A case as a structured report (DICOM) that refers to the pictures of all its slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pathgene_rt.cases.report import CaseReport
from pathgene_rt.errors import BatchError
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.dicom.identity import Author
from pathgene_rt.report.dicom.stored_source import StoredSource
from pathgene_rt.report.dicom.structured_report import answer_group, answers_document

if TYPE_CHECKING:
    from highdicom.sr import Comprehensive3DSR


def case_document(report: CaseReport, sources: Sequence[StoredSource]) -> Comprehensive3DSR:
    """The report of a case of the slides ``sources``, in their order: for each head its answer for
    all tiles together, the mean of the slides, and its answer for each slide.

    It lies in the first slide's study. Raises BatchError where slides are of different patients.
    """
    _require_one_patient(report, sources)
    author = _author(report)
    groups = []
    for both in report.predictions:
        groups.append(answer_group(author, both.pooled, sources, method=ours.CASE_POOLED))
        groups.append(answer_group(author, both.mean, sources, method=ours.CASE_MEAN))
        answers = answers_of_slides(report, both.slides)
        for (slide_id, answer), source in zip(answers, sources, strict=True):
            said = ((ours.SLIDE, slide_id),)
            groups.append(answer_group(author, answer, [source], texts=said))
    return answers_document(author, groups, sources, report.warnings)


def answers_of_slides(
    report: CaseReport, answers: Sequence[Prediction]
) -> list[tuple[str, Prediction]]:
    """Each slide's id and a head's answer for it, withheld where its own report withholds it."""
    reason = (Reason(code="slides_withheld", figures={"count": 1}),)
    return [
        (
            slide.slide_id,
            replace(answer, withheld=reason) if answer.head in slide.withheld else answer,
        )
        for slide, answer in zip(report.slides, answers, strict=True)
    ]


def _author(report: CaseReport) -> Author:
    encoders = sorted({slide.encoder or "unknown" for slide in report.slides})
    site = report.site
    return Author(
        bundle=report.bundle,
        intended_use=report.intended_use,
        software=report.versions["pathgene-rt"],
        facts=(
            *(() if site is None else (f"site profile sha256: {site.sha256}",)),
            f"engines: {', '.join(encoders)}",
            f"tiles: {sum(slide.tiles for slide in report.slides)} of {len(report.slides)} slides",
        ),
    )


def _require_one_patient(report: CaseReport, sources: Sequence[StoredSource]) -> None:
    """Patients are compared by id; where one has none, only one study is of one patient."""
    first = sources[0].dataset
    for slide, source in zip(report.slides, sources, strict=True):
        data = source.dataset
        same_study = data.StudyInstanceUID == first.StudyInstanceUID
        if data.PatientID != first.PatientID or not (data.PatientID or same_study):
            raise BatchError(
                f"no DICOM report: the slides {report.slides[0].slide_id} and {slide.slide_id} are "
                "of different patients; correct the table of cases, or the slides' context"
            )
