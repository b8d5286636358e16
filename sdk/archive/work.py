"""What one worker of an archive does of each task, with the predictors that it has open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from pathgene_rt.archive.extraction import by_tiling, each_group, extract
from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.ranges import READERS
from pathgene_rt.archive.results import FolderResults, Results
from pathgene_rt.archive.staging import LocalFile, SlideSource, Staging
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.stores import is_url
from pathgene_rt.archive.tasks import (
    CaseTask,
    Ended,
    SampleTask,
    SlideTask,
    Task,
    WorkerSpec,
)
from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.batch import attempt
from pathgene_rt.bundle.site_profile import SiteProfile, read_profile
from pathgene_rt.cases.batch import CaseBatch
from pathgene_rt.cases.files import CaseFiles
from pathgene_rt.cases.table import Case
from pathgene_rt.errors import BundleError, PathGeneError, SlideReadError
from pathgene_rt.extraction.earlier import NOTHING, Earlier
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.files import writable_folder
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide


class Work:
    """``predictors`` are of the run's bundles, by the folders of their results."""

    def __init__(
        self, spec: WorkerSpec, predictors: dict[str, Predictor], options: PredictOptions
    ) -> None:
        self.spec = spec
        self.predictors = predictors
        self.options = options

    @property
    def predictor(self) -> Predictor:
        """The first; all are opened with the same options."""
        return next(iter(self.predictors.values()))

    @cached_property
    def staging(self) -> Staging:
        """Made for the first slide that lies in a store."""
        return Staging(self.spec.stage, self.spec.stage_limit)

    def close(self) -> None:
        for predictor in self.predictors.values():
            predictor.close()
        if "staging" in vars(self):
            self.staging.close()

    @classmethod
    def open(cls, spec: WorkerSpec) -> Work:
        options = PredictOptions(**spec.predict)
        keyring = Path(spec.keyring) if spec.keyring else None
        with ExitStack() as stack:
            predictors = {
                folder: stack.enter_context(
                    Predictor.open(
                        Path(path),
                        EngineOptions(**spec.engine),
                        site=_profile_of(spec, keyring),
                        audit=AuditTrail(Path(spec.audit)) if spec.audit else None,
                        keyring=keyring,
                    )
                )
                for folder, (path, _) in spec.bundles.items()
            }
            stack.pop_all()
        return cls(spec, predictors, options)

    @cached_property
    def results(self) -> Results:
        if is_url(self.spec.out):
            return StoredResults(ObjectFolder(self.spec.out), self.staging.folder / "attempts")
        return FolderResults(ArchiveLayout(Path(self.spec.out)))

    def do(self, task: Task, name: str) -> Ended:
        began = time.monotonic()
        told: list[str] = []

        def work() -> int | None:
            if isinstance(task, CaseTask):
                return self._case(task, name)
            if isinstance(task, SampleTask):
                return self._sample(task)
            if self.spec.kind == "predict":
                return self._predict(task, name, told.append)
            return self._extract(task, name, told.append)

        stops = False
        try:
            ended = attempt(work, task.name, self._conceal_of(task))
        except PathGeneError as error:
            ended, stops = error, True
        finally:
            if not isinstance(task, CaseTask) and is_url(task.source):
                self.staging.forget(task.source)
        finished = Ended(
            "skipped" if ended is None else "done",
            seconds=time.monotonic() - began,
            note="; ".join(told),
        )
        if isinstance(ended, PathGeneError):
            kind = type(ended).__name__
            return replace(finished, outcome="failed", kind=kind, message=str(ended), stops=stops)
        return replace(finished, tiles=ended or 0)

    def prepare(self, task: SlideTask) -> None:
        """What can be done for the slide before it is its turn. What fails is told then."""
        with suppress(PathGeneError):
            found = self._source(task).fingerprint()
            done = all(self._is_done(task, found, lambda _: None, one) for one in self.predictors)
            if not done and not self.spec.ranges:
                self.staging.begin(task.source)

    def _predict(self, task: SlideTask, name: str, note: Callable[[str], None]) -> int | None:
        """Tiles of the slide, None where its result is there already."""
        source, options = self._source(task), self._options(task)
        found = source.fingerprint()
        key = self._key(task)
        before = self.results.stamp(key)
        if self._is_done(task, found, note):
            return None
        with self.results.attempt(name, key) as place:
            with source.opened(options) as slide:
                asked = _for_reading(slide, options)
                report = self.predictor.predict(slide, asked, out=place / key)
            _require_same(task, found, source)
            if task.case:
                self.results.remove_case(task.case)
            self.results.publish(place / key, name, key, before, lambda: self._serves(task, found))
        for warning in report.warnings:
            note(warning)
        return report.provenance.tiles

    def _extract(self, task: SlideTask, name: str, note: Callable[[str], None]) -> int | None:
        """Tiles of the slide, of all bundles together; None where all results are there already."""
        source, options = self._source(task), self._options(task)
        found = source.fingerprint()
        before = {one: self.results.stamp(self._key(task, one)) for one in self.predictors}
        keys = {
            one: self._key(task, one)
            for one in self.predictors
            if not self._is_done(task, found, note, one)
        }
        if not keys:
            return None

        def work(bundles: Sequence[str]) -> int:
            asked = _for_reading(slide, options)
            outs = [place / keys[one] for one in bundles]
            for out in outs:
                writable_folder(out.parent)
            tiles = extract([self.predictors[one] for one in bundles], slide, asked, outs, note)
            _require_same(task, found, source)
            for one, out in zip(bundles, outs, strict=True):
                serves = partial(self._serves, task, found, one)
                self.results.publish(out, name, keys[one], before[one], serves)
            return tiles

        with self.results.attempt(name, *keys.values()) as place, source.opened(options) as slide:
            return each_group(by_tiling({one: self.predictors[one] for one in keys}), work, note)

    def _case(self, task: CaseTask, name: str) -> int | None:
        ids = {Path(source): slide_id for slide_id, source in task.slides}
        case = Case(task.case, tuple(ids))
        failed = [slide for slide, slide_id in ids.items() if slide_id in task.failed]
        files = CaseFiles.of(self.options)
        with self.results.case(task, name, ids) as places:
            batch = CaseBatch(
                [case], self.predictor, places, lambda slide: slide not in failed, files
            )
            if batch.done(case) and not self.spec.overwrite:
                batch.add_page(case)
                return None
            return sum(slide.tiles for slide in batch.predict(case, failed).slides)

    def _sample(self, task: SampleTask) -> int:
        options = self._options(task)
        with self._source(task).opened(options) as slide:
            if self.spec.kind == "extract":
                return each_group(
                    by_tiling(self.predictors),
                    lambda bundles: extract(
                        [self.predictors[one] for one in bundles],
                        slide,
                        options,
                        [None] * len(bundles),
                        lambda _: None,
                    ),
                    lambda _: None,
                )
            return self.predictor.predict(slide, options).provenance.tiles

    def _source(self, task: SlideTask | SampleTask) -> SlideSource:
        if is_url(task.source):
            return self.staging.source(task.source, ranges=self.spec.ranges)
        return LocalFile(Path(task.source), self.options.io_timeout_s)

    def _options(self, task: SlideTask | SampleTask) -> PredictOptions:
        options = replace(self.options, slide_id=task.hidden_id or task.slide_id)
        if task.mpp is not None:
            options = replace(options, mpp=task.mpp)
        # A case is predicted from the features of its slides.
        if isinstance(task, SlideTask) and task.case:
            options = replace(options, features=True)
        return options

    def _identity(
        self, task: SlideTask, options: PredictOptions, found: SlideFingerprint
    ) -> ResultIdentity:
        asked, site = self.predictor.precision_asked, self.predictor.bundle.site
        identity = ResultIdentity.of(Path(task.source), options, asked, found)
        return identity if site is None else replace(identity, site_sha256=site.sha256)

    def _conceal_of(self, task: Task) -> Callable[[str], str] | None:
        """What makes a message not name the task's slide, where there are pseudonyms."""
        hidden = self.options.pseudonyms
        if hidden is None or isinstance(task, CaseTask):  # a case's slides are called by theirs
            return None
        slide = Path(task.source)
        return lambda text: hidden.conceal(text, slide)

    def _key(self, task: SlideTask, bundle: str = "") -> str:
        if self.spec.kind == "predict":
            return task.slide_id
        return f"{bundle}/{task.slide_id}.h5" if bundle else f"{task.slide_id}.h5"

    def _earlier(self, task: SlideTask, found: SlideFingerprint, name: str = "") -> Earlier:
        """What is there of the slide, whose fingerprint is ``found``, by the bundle ``name``."""
        options = self._options(task)

        def wanted() -> ResultIdentity:
            return self._identity(task, options, found)

        bundle = self.predictors[name].bundle
        if self.spec.kind == "extract":
            encoder = bundle.encoder.weights_sha256
            return self.results.earlier_features(self._key(task, name), encoder, wanted)
        return self.results.earlier_report(
            self._key(task),
            bundle.sha256,
            wanted,
            features=options.features,
            partial=options.budget.limited,
        )

    def _serves(self, task: SlideTask, found: SlideFingerprint, name: str = "") -> bool:
        return self._earlier(task, found, name).serves

    def _is_done(
        self,
        task: SlideTask,
        found: SlideFingerprint,
        note: Callable[[str], None],
        name: str = "",
    ) -> bool:
        earlier = NOTHING if self.spec.overwrite else self._earlier(task, found, name)
        if earlier.note:
            note(f"{name}: {earlier.note}" if name else earlier.note)
        return earlier.serves


def _profile_of(spec: WorkerSpec, keyring: Path | None) -> SiteProfile | None:
    """The site profile that the run has. Raises BundleError if it is another one here, or not
    signed as is asked for."""
    if not spec.site:
        return None
    path = Path(spec.site)
    profile = read_profile(path)
    if profile.sha256 != spec.site_sha256:
        raise BundleError(
            f"the site profile {path} is another one here (hash {profile.sha256[:12]}, that of the "
            f"run {spec.site_sha256[:12]}); copy it anew"
        )
    require_signed_profile(path, profile.sha256, keyrings_of_site(keyring))
    return profile


def _for_reading(slide: Path | GivenSlide, options: PredictOptions) -> PredictOptions:
    """More threads where each waits for a store."""
    ranged = isinstance(slide, GivenSlide) and not options.readers
    return replace(options, readers=READERS) if ranged else options


def _require_same(task: SlideTask, before: SlideFingerprint, source: SlideSource) -> None:
    """Raise SlideReadError if the slide is no longer what it was when the work began."""
    if source.fingerprint() != before:
        raise SlideReadError(
            f"{task.name}: the file changed while it was read; run again when it is whole"
        )
