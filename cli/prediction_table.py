"""Predictions as tables for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathgene_rt.cases.report import CaseReport
    from pathgene_rt.cli.console import Console
    from pathgene_rt.heads.prediction import Prediction
    from pathgene_rt.report.report import Report


def show_report(report: Report, console: Console) -> None:
    """The predictions of one slide, and its warnings."""
    rows = [
        [prediction.head, _about(prediction), prediction.call, _chances(prediction)]
        for prediction in report.predictions
    ]
    console.table(report.slide_id, ["head", "gene", "call", "probabilities"], rows)
    for prediction in report.predictions:
        _say_why(prediction.head, prediction, console)
    if report.partial is not None:
        console.warn(f"{report.slide_id}: {report.partial.describe()}")
    for warning in report.warnings:
        console.warn(f"{report.slide_id}: {warning}")


def show_case(report: CaseReport, console: Console) -> None:
    """Both predictions of one case, and its warnings."""
    rows = [
        [both.pooled.head, _about(both.pooled), name, prediction.call, _chances(prediction)]
        for both in report.predictions
        for name, prediction in (("mean of slides", both.mean), ("pooled bag", both.pooled))
    ]
    count = len(report.slides)
    title = f"case {report.case_id}, {count} slide{'s' if count > 1 else ''}"
    console.table(title, ["head", "gene", "of", "call", "probabilities"], rows)
    for both in report.predictions:
        _say_why(f"{both.pooled.head}, mean of slides", both.mean, console)
        _say_why(f"{both.pooled.head}, pooled bag", both.pooled, console)
    for warning in report.warnings:
        console.warn(f"case {report.case_id}: {warning}")


def _about(prediction: Prediction) -> str:
    return prediction.gene or prediction.kind


def _say_why(name: str, prediction: Prediction, console: Console) -> None:
    """Why there is no answer, where there is none."""
    if not prediction.is_decided and prediction.decision is not None:
        for reason in prediction.decision.reasons:
            console.say(f"{name}: {prediction.call}. {reason.text}")


def _chances(prediction: Prediction) -> str:
    """Each class with its probability and, where it is not final, its 95 % interval; nothing where
    the answer is withheld."""
    if prediction.withheld:
        return ""
    intervals = prediction.interval or (None,) * len(prediction.classes)
    return ", ".join(
        f"{name} {chance:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")
        for name, chance, ends in zip(
            prediction.classes, prediction.probabilities, intervals, strict=True
        )
    )
