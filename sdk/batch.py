"""Many slides and their cases through one predictor: what is done is skipped, what fails stops
nothing else.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.cases.batch import CaseBatch, CaseModel
from pathgene_rt.cases.files import CaseFiles
from pathgene_rt.cases.places import ResultPlaces
from pathgene_rt.cases.report import CaseReport
from pathgene_rt.cases.table import Case
from pathgene_rt.errors import (
    BundleError,
    CancelledError,
    OutputError,
    PathGeneError,
    SlideError,
    UsageError,
    slide_failure,
)
from pathgene_rt.extraction.earlier import NOTHING, Earlier
from pathgene_rt.extraction.extract import TileProgress
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.files import writable_folder
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import PredictOptions
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report.dicom.requirements import require_dicom
from pathgene_rt.report.report import Report
from pathgene_rt.report.stored import earlier_report
from pathgene_rt.slide_ids import TABLE_FILE, assign_ids, changed, read_table, write_table
from pathgene_rt.tiles.external_coords import check_coords

Outcome = Literal["done", "skipped", "failed"]

BatchProgress = Callable[[str, int, int | None], None]
"""Called with (name, tiles done, tiles in all): with (name, 0, None) when a slide or case is begun,
then after each batch of a slide's tiles. The name is that of the result."""

_STOPPING = (UsageError, BundleError, CancelledError)
"""Every other slide would meet them too: a wrong option, a stop. Of OutputError only those of the
disk itself; one slide's folder may belong to somebody else."""

_OF_THE_DISK = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ESTALE", "EFBIG")
    if hasattr(errno, name)
)

TABLE_WAIT_S = 30.0
"""For other runs to write ``slides.csv``, which takes them a moment."""

Value = TypeVar("Value")


class BatchModel(CaseModel, Protocol):
    """What a batch needs of a :class:`~pathgene_rt.predictor.Predictor`."""

    @property
    def precision_asked(self) -> str: ...

    def predict(
        self,
        slide: Path,
        options: PredictOptions | None = None,
        *,
        out: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> Report: ...


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide. ``name`` is the file's name, or its pseudonym; results are in
    ``folder``. ``report`` is there when it was done in this run, ``error`` when it failed.
    """

    slide: Path
    name: str
    folder: Path
    outcome: Outcome
    report: Report | None = None
    error: PathGeneError | None = None


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What became of one case, as :class:`SlideResult`. ``name`` is its id or pseudonym."""

    case: Case
    name: str
    folder: Path
    outcome: Outcome
    report: CaseReport | None = None
    error: PathGeneError | None = None


def attempt(
    work: Callable[[], Value], name: str, conceal: Callable[[str], str] | None = None
) -> Value | PathGeneError:
    """What ``work`` on the slide or case ``name`` gives, or what it failed of.

    Anything that others' code raises becomes a failure, its message put through ``conceal``.
    Raises UsageError, BundleError, CancelledError, which concern every slide, and OutputError of a
    disk that is full or gone; interrupts pass.
    """
    try:
        return work()
    except _STOPPING as error:
        if not isinstance(error, OutputError) or _is_of_the_disk(error):
            raise
        failure: PathGeneError = error
    except Exception as error:  # noqa: BLE001 - readers and codecs of others raise what they like
        failure = slide_failure(error, name)
    try:
        _let_go(failure)
        return failure if conceal is None else type(failure)(conceal(str(failure)))
    finally:
        del failure  # its traceback names this frame


def _let_go(failure: BaseException | None) -> None:
    """Free what the frames of a failure worked on, which its traceback would keep for as long as
    results are kept, and as a cycle beyond that."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__


def _is_of_the_disk(error: OutputError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _OF_THE_DISK


def predict_many(
    model: BatchModel,
    slides: Sequence[Path],
    out: Path,
    options: PredictOptions | None = None,
    *,
    cases: Sequence[Case] = (),
    ids: Mapping[Path, str] | None = None,
    overwrite: bool = False,
    token: CancellationToken | None = None,
    progress: BatchProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[SlideResult | CaseResult]:
    """As :meth:`Predictor.predict_many`. ``ids`` are those of the slides where the caller keeps
    them; no two may be alike in any case of letters."""
    options = options or PredictOptions()
    _check(slides, cases, options)
    folder = writable_folder(out)
    kept = keep_ids(slides, out, options.pseudonyms) if ids is None else ids
    places = ResultPlaces(folder, options.pseudonyms, kept)
    batch = _Batch(model, places, options, overwrite, token, progress, note)
    return batch.results(slides, cases)


def known_ids(
    slides: Sequence[Path], out: Path, pseudonyms: Pseudonyms | None = None
) -> dict[Path, str]:
    """The ids of ``slides``, with those that ``slides.csv`` in ``out`` has from earlier runs,
    unless there are ``pseudonyms``. Raises UsageError.
    """
    return assign_ids(slides, {} if pseudonyms is not None else read_table(out))


def keep_ids(
    slides: Sequence[Path], out: Path, pseudonyms: Pseudonyms | None = None
) -> dict[Path, str]:
    """:func:`known_ids`, written to ``slides.csv`` where a file's name does not say its slide's id,
    unless there are ``pseudonyms``. Another run into ``out`` may do the same at the same time.
    Raises UsageError, OutputError; FileAccessError if another run does not come to an end with it.
    """
    ids = known_ids(slides, out, pseudonyms)
    if pseudonyms is not None or not changed(ids):
        return ids
    with sole_writer(out / TABLE_FILE, TABLE_WAIT_S):
        ids = known_ids(slides, out)
        write_table(out, ids)
    return ids


def _check(slides: Sequence[Path], cases: Sequence[Case], options: PredictOptions) -> None:
    """Raise UsageError if the batch makes no sense."""
    check_coords(options.coords, len(slides))
    require_dicom(options, slides)
    if cases and options.budget.limited:
        raise UsageError("cases need whole slides; leave out the budget")
    if options.resume and options.pseudonyms is not None and not options.pseudonyms.lasting:
        raise UsageError(
            "a killed run cannot be resumed under random pseudonyms; give the key that it had"
        )
    places = ResultPlaces(Path(), options.pseudonyms)
    given = frozenset(slides)
    for case in cases:
        for slide in case.slides:
            if slide not in given:
                raise UsageError(
                    f"case {places.case_name(case)} has the slide {places.slide_name(slide)}, "
                    "which is not given; give all slides of a case"
                )


class _Batch:
    def __init__(
        self,
        model: BatchModel,
        places: ResultPlaces,
        options: PredictOptions,
        overwrite: bool,
        token: CancellationToken | None,
        progress: BatchProgress | None,
        note: Callable[[str], None] | None,
    ) -> None:
        self._model = model
        self._places = places
        self._options = options
        self._overwrite = overwrite
        self._token = token or CancellationToken()
        self._progress: BatchProgress = progress or (lambda *_: None)
        self._note: Callable[[str], None] = note or (lambda _: None)

    def results(
        self, slides: Sequence[Path], cases: Sequence[Case]
    ) -> Iterator[SlideResult | CaseResult]:
        """All slides in their order, then all cases."""
        case_batch = CaseBatch(
            cases,
            self._model,
            self._places,
            self._is_done,
            CaseFiles.of(self._options),
        )
        failed: set[Path] = set()
        for slide in slides:
            features = self._options.features or slide in case_batch.needed
            slide_id = self._places.slide_id(slide)
            options = replace(self._options, features=features, slide_id=slide_id)
            result = self._slide(slide, options)
            if result.outcome == "failed":
                failed.add(slide)
            yield result
            del result  # a report's attention is large
        for case in cases:
            yield self._case(case, case_batch, failed)

    def _slide(self, slide: Path, options: PredictOptions) -> SlideResult:
        self._token.raise_if_cancelled()
        name, folder = self._places.slide_name(slide), self._places.slide_folder(slide)

        def work() -> Report | None:
            earlier = self._earlier(slide, options, features=options.features)
            if earlier.note:
                self._note(f"{name}: {earlier.note}")
            if earlier.serves:
                return None
            self._progress(name, 0, None)
            return self._model.predict(
                slide,
                options,
                out=folder,
                token=self._token.child(),
                progress=lambda done, total: self._progress(name, done, total),
            )

        hidden = options.pseudonyms
        conceal = None if hidden is None else (lambda text: hidden.conceal(text, slide))
        ended = attempt(work, name, conceal)
        if isinstance(ended, PathGeneError):
            return SlideResult(slide=slide, name=name, folder=folder, outcome="failed", error=ended)
        outcome: Outcome = "skipped" if ended is None else "done"
        return SlideResult(slide=slide, name=name, folder=folder, outcome=outcome, report=ended)

    def _earlier(self, slide: Path, options: PredictOptions, *, features: bool = False) -> Earlier:
        """Whether the slide's report is there already. Raises SlideError."""
        if self._overwrite:
            return NOTHING
        return earlier_report(
            self._places.slide_folder(slide),
            self._model.bundle.sha256,
            lambda: self._identity(slide, options),
            features=features,
            partial=options.budget.limited,
        )

    def _identity(self, slide: Path, options: PredictOptions) -> ResultIdentity:
        identity = ResultIdentity.of(slide, options, self._model.precision_asked)
        site = self._model.bundle.site
        return identity if site is None else replace(identity, site_sha256=site.sha256)

    def _is_done(self, slide: Path) -> bool:
        try:
            return self._earlier(slide, self._options).serves
        except SlideError:  # said when it is the slide's turn
            return False

    def _case(self, case: Case, batch: CaseBatch, failed: set[Path]) -> CaseResult:
        self._token.raise_if_cancelled()
        name, folder = self._places.case_name(case), self._places.case_folder(case)

        def work() -> CaseReport | None:
            if batch.done(case):
                batch.add_page(case)
                return None
            self._progress(name, 0, None)
            return batch.predict(case, failed)

        ended = attempt(work, name)
        if isinstance(ended, PathGeneError):
            return CaseResult(case=case, name=name, folder=folder, outcome="failed", error=ended)
        outcome: Outcome = "skipped" if ended is None else "done"
        return CaseResult(case=case, name=name, folder=folder, outcome=outcome, report=ended)
