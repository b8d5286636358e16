"""The cases of ``predict --cases``: from the slides' results on disk to OUT/cases/<case>/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.cli.console import Console
from pathgene_rt.cli.prediction_table import show_case
from pathgene_rt.cli.slide_batch import Row
from pathgene_rt.errors import BatchError

if TYPE_CHECKING:
    from pathgene_rt.cases.table import Case
    from pathgene_rt.predictor import Predictor

COLUMNS = ("slides", "tiles", "report")


class CaseBatch:
    """What is to be done about ``cases``.

    ``slide_folder`` and ``case_folder`` say where a slide's and a case's results lie;
    ``pseudonym`` is the case's id in them. An older result of a case that is to be done is removed
    at construction, before a slide of it changes. One case's features are in memory at a time.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        predictor: Predictor,
        console: Console,
        *,
        slide_folder: Callable[[Path], Path],
        case_folder: Callable[[Case], Path],
        overwrite: bool,
    ) -> None:
        from pathgene_rt.cases.report import remove_case

        self.cases = cases
        self._predictor = predictor
        self._console = console
        self._slide_folder = slide_folder
        self._case_folder = case_folder
        self._finished = [case for case in cases if not overwrite and self._is_complete(case)]
        waiting = [case for case in cases if case not in self._finished]
        for case in waiting:
            remove_case(case_folder(case))
        self.needed = frozenset(slide for case in waiting for slide in case.slides)
        """Slides whose features are needed."""

    def _is_complete(self, case: Case) -> bool:
        from pathgene_rt.cases.report import CaseSlide, is_complete_case
        from pathgene_rt.report.stored import is_complete_report

        bundle = self._predictor.bundle.sha256
        folders = [self._slide_folder(slide) for slide in case.slides]
        return all(is_complete_report(folder, bundle) for folder in folders) and is_complete_case(
            self._case_folder(case),
            bundle,
            tuple(CaseSlide.from_report(folder) for folder in folders),
        )

    def done(self, case: Case) -> bool:
        """Whether the case was predicted by an earlier run, from the reports that are there."""
        return case in self._finished

    def predict(self, case: Case, failed: frozenset[str]) -> Row:
        """Predict one case whose slides are done, except those ``failed`` (file names).

        Raises BatchError if there is such a slide; SlideError, EngineError, OutputError.
        """
        from pathgene_rt.cases.predict import predict_case
        from pathgene_rt.cases.report import CASE_FILE, CaseSlide, with_slide_reports, write_case
        from pathgene_rt.features.hdf5 import read_features
        from pathgene_rt.report.features_file import FEATURES_FILE

        lost = [slide.name for slide in case.slides if slide.name in failed]
        if lost:
            raise BatchError(
                f"no prediction, because {', '.join(lost)} failed; put that right and run again, "
                "or take it out of the case"
            )
        folders = [self._slide_folder(slide) for slide in case.slides]
        slides = tuple(CaseSlide.from_report(folder) for folder in folders)
        out = self._case_folder(case)
        report = predict_case(
            self._predictor, out.name, (read_features(folder / FEATURES_FILE) for folder in folders)
        )
        report = with_slide_reports(report, slides)
        write_case(report, out)
        show_case(report, self._console)
        document = report.to_dict()
        return {
            "slides": len(slides),
            "tiles": document["provenance"]["tiles"]["count"],
            "report": str(out / CASE_FILE),
            "predictions": document["predictions"],
        }
