"""The slides and cases of ``predict``: their results printed as they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from pathgene_rt.batch import CaseResult, SlideResult
from pathgene_rt.cases.report import CASE_FILE
from pathgene_rt.cases.table import Case
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.prediction_table import show_case, show_report
from pathgene_rt.cli.slide_batch import Batch, Ended
from pathgene_rt.options import PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.report.stored import REPORT_FILE

SLIDE_COLUMNS = ("tiles", "tiles_per_second", "report")
CASE_COLUMNS = ("slides", "tiles", "report")


def predict_batch(
    predictor: Predictor,
    slides: Sequence[Path],
    out: Path,
    options: PredictOptions,
    cases: Sequence[Case],
    console: Console,
    *,
    overwrite: bool,
) -> None:
    """Predict all of them. Raises what :meth:`Batch.raise_failures` does, OutputError."""
    batch = Batch(console)
    results = predictor.predict_many(
        slides,
        out,
        options,
        cases=cases,
        overwrite=overwrite,
        progress=batch.tiles,
        note=console.note,
    )
    of_slides = (one for one in islice(results, len(slides)) if isinstance(one, SlideResult))
    of_cases = (one for one in results if isinstance(one, CaseResult))
    with batch:
        ended = (_slide_ended(result, console) for result in of_slides)
        batch.follow("slide", len(slides), ended, columns=SLIDE_COLUMNS)
        if cases:
            ended = (_case_ended(result, console) for result in of_cases)
            batch.follow("case", len(cases), ended, columns=CASE_COLUMNS)
    batch.raise_failures()


def _slide_ended(result: SlideResult, console: Console) -> Ended:
    row = {}
    if result.report is not None:
        show_report(result.report, console)
        provenance = result.report.provenance
        row = {
            "tiles": provenance.tiles,
            "tiles_per_second": round(provenance.tiles_per_second, 1),
            "report": str(result.folder / REPORT_FILE),
            "predictions": [prediction.to_dict() for prediction in result.report.predictions],
        }
    return Ended(result.name, result.outcome, row, result.error)


def _case_ended(result: CaseResult, console: Console) -> Ended:
    row = {}
    if result.report is not None:
        show_case(result.report, console)
        document = result.report.to_dict()
        row = {
            "slides": len(result.report.slides),
            "tiles": document["provenance"]["tiles"]["count"],
            "report": str(result.folder / CASE_FILE),
            "predictions": document["predictions"],
        }
    return Ended(result.name, result.outcome, row, result.error)
