"""The cases of a batch: from the slides' results on disk to each case's folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from pathgene_rt.cases.files import (
    CaseFiles,
    add_page,
    is_complete_case,
    remove_case,
    write_case,
)
from pathgene_rt.cases.places import ResultPlaces
from pathgene_rt.cases.predict import predict_case
from pathgene_rt.cases.report import CaseReport, CaseSlide, with_slide_reports
from pathgene_rt.cases.table import Case
from pathgene_rt.errors import BatchError
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.report.assemble import ReportModel
from pathgene_rt.report.features_file import FEATURES_FILE


class CaseModel(ReportModel, Protocol):
    """What cases need of a :class:`~pathgene_rt.predictor.Predictor`."""

    def record_case(self, report: CaseReport, document: bytes) -> None: ...


class CaseBatch:
    """What is to be done about ``cases``, whose slides' results lie in ``places``.

    ``slide_done`` says whether a slide's result is what this batch would make, ``files``
    which files beside ``case.json`` are wanted. An older result of a case that is to be done is
    removed at construction, before a slide of it changes. One case's features are in memory at a
    time. Raises OutputError.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        model: CaseModel,
        places: ResultPlaces,
        slide_done: Callable[[Path], bool],
        files: CaseFiles,
    ) -> None:
        self._model = model
        self._places = places
        self._slide_done = slide_done
        self._files = files
        self._finished = [case for case in cases if self._is_complete(case)]
        waiting = [case for case in cases if case not in self._finished]
        for case in waiting:
            remove_case(places.case_folder(case))
        self.needed = frozenset(slide for case in waiting for slide in case.slides)
        """Slides whose features are needed."""

    def _is_complete(self, case: Case) -> bool:
        bundle = self._model.bundle.sha256
        folders = self._folders(case)
        return all(map(self._slide_done, case.slides)) and is_complete_case(
            self._places.case_folder(case),
            bundle,
            tuple(CaseSlide.from_report(folder) for folder in folders),
            self._files,
        )

    def done(self, case: Case) -> bool:
        """Whether the case was predicted by an earlier run, from the reports that are there."""
        return case in self._finished

    def predict(self, case: Case, failed: Collection[Path]) -> CaseReport:
        """Predict one case whose slides are done, except those ``failed``, and write its file.

        Raises BatchError if there is such a slide, or slides are of different patients; SlideError,
        EngineError, OutputError.
        """
        lost = [self._places.slide_name(slide) for slide in case.slides if slide in failed]
        if lost:
            raise BatchError(
                f"no prediction, because {', '.join(lost)} failed; put that right and run again, "
                "or take it out of the case"
            )
        folders = self._folders(case)
        slides = tuple(CaseSlide.from_report(folder) for folder in folders)
        bags = (read_features(folder / FEATURES_FILE) for folder in folders)
        report = predict_case(self._model, self._places.case_name(case), bags)
        report = with_slide_reports(report, slides)
        return write_case(
            report, self._places.case_folder(case), folders, self._files, self._model.record_case
        )

    def add_page(self, case: Case) -> None:
        """Write the page of a case that was done before, if it is asked for and there is none.

        Raises OutputError.
        """
        if self._files.page is not None:
            add_page(self._places.case_folder(case), self._folders(case), self._files.page)

    def _folders(self, case: Case) -> list[Path]:
        return [self._places.slide_folder(slide) for slide in case.slides]
