"""The composition root: one bundle opened once, then slide after slide through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.batch import BatchProgress, CaseResult, SlideResult, predict_many
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.site_profile import SiteProfile
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.cases.audit_line import case_facts
from pathgene_rt.cases.report import CaseReport
from pathgene_rt.cases.table import Case
from pathgene_rt.engines.backend import ProgressCallback
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import BundleError
from pathgene_rt.extraction.encoding_run import EncodedSlide
from pathgene_rt.extraction.extract import TileProgress
from pathgene_rt.extraction.feature_journal import discard_partial
from pathgene_rt.extraction.prepare import PreparedSlide, prepare_slide
from pathgene_rt.extraction.slide_extractor import SlideEncoder
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.left_out import UsableTiles, usable_tiles
from pathgene_rt.files import json_bytes, sha256
from pathgene_rt.heads.budget import BudgetedRun
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.locks import own_folder, sole_writer
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.report.assemble import EncodedFacts, Predicted, assemble_report
from pathgene_rt.report.audit_line import audit_event, report_facts
from pathgene_rt.report.dicom.requirements import require_dicom
from pathgene_rt.report.dicom.source import find_source
from pathgene_rt.report.domain import domain_of
from pathgene_rt.report.features_file import FEATURES_FILE
from pathgene_rt.report.pdf import require_pdf
from pathgene_rt.report.report import Report
from pathgene_rt.report.stored import REPORT_FILE
from pathgene_rt.report.subject import subject_of
from pathgene_rt.report.writer import needs_overview, write_report
from pathgene_rt.scan.input import WHITE, Colour, ScanOptions
from pathgene_rt.scan.session import ScanSession
from pathgene_rt.site_trust import audit_of_site, keyrings_of_site, signer_of_bundle
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
from pathgene_rt.tiles.read_order import locality_order


class Predictor:
    """Predicts slides with one bundle on this machine.

    Use as a context manager. Engines are compiled once, at construction. Every method may be called
    from any thread, also for several slides at once: they share the encoder in turn. A process that
    is forked from the one that opened it opens its own. Heads are calibrated and called as ``site``
    has it, if it is given (:func:`~pathgene_rt.bundle.site_profile.read_profile`), and every report
    names it. Raises BundleError, EngineError and EngineUnavailableError; UsageError for a profile
    of another bundle. ``progress`` hears of engines that take
    minutes to build, if `build` did not do it before. ``audit`` gets a line for every report before
    that counts as written; None: the trail of the site's policy, if it names one. The bundle must
    be signed as the file ``keyring`` asks, and as the site's policy does.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        site: SiteProfile | None = None,
        progress: ProgressCallback | None = None,
        audit: AuditTrail | None = None,
        keyring: Path | None = None,
    ) -> None:
        self.bundle = bundle = bundle if site is None else bundle.at_site(site)
        self.audit = audit_of_site(audit)
        with ExitStack() as stack:
            stack.enter_context(bundle)
            self.signer = signer_of_bundle(bundle, keyrings_of_site(keyring))
            if self.audit is not None and site is not None:
                self.audit.site_changed("profile", site.sha256, {"profile": site.name})
            self.domain = domain_of(bundle)
            self.engines = EngineFactory(bundle, options or EngineOptions(), progress=progress)
            engine = stack.enter_context(self.engines.encoder())
            self.options = self.engines.options
            self.service = stack.enter_context(EncoderService(engine))
            self.heads = stack.enter_context(HeadPanel(bundle, self.engines))
            self.slide_encoder = SlideEncoder(
                self.service,
                bundle.preprocess,
                self.options,
                self.heads.probabilities,
                self.engines,
                bundle.manifest.quality,
            )
            self._resources = stack.pop_all()

    @classmethod
    def open(
        cls,
        path: Path,
        options: EngineOptions | None = None,
        *,
        site: SiteProfile | None = None,
        progress: ProgressCallback | None = None,
        audit: AuditTrail | None = None,
        keyring: Path | None = None,
    ) -> Predictor:
        """Open and check the bundle at ``path`` and compile its engines. The trail also has a line
        for a bundle that is refused."""
        trail = audit_of_site(audit)
        try:
            bundle = Bundle.open(Path(path))
            return cls(bundle, options, site=site, progress=progress, audit=trail, keyring=keyring)
        except BundleError as error:
            if trail is not None:
                facts = {"bundle": Path(path).name, "reason": str(error)}
                trail.append("bundle-refused", facts)
            raise

    def predict(
        self,
        slide: Path | GivenSlide,
        options: PredictOptions | None = None,
        *,
        out: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> Report:
        """Run the slide through encoder and heads; write the report's files if ``out`` is given.

        ``token`` stops the work from another thread. Raises SlideError, EngineError, OutputError,
        CancelledError; then nothing half-written is left in ``out``. FileAccessError if another
        process or thread writes there.
        """
        self.service.process.require()
        began = time.monotonic()
        options = options or PredictOptions()
        if options.pdf:
            require_pdf()
        require_dicom(options)
        keeps_features = out is not None and (options.features or options.resume)
        features_path = out / FEATURES_FILE if out is not None and keeps_features else None
        with ExitStack() as stack:
            if out is not None:
                stack.enter_context(own_folder(out))
            prepared = stack.enter_context(prepare_slide(slide, self.bundle.preprocess, options))
            info = prepared.slide.info
            dicom = find_source(slide, info, options) if options.dicom and out is not None else None
            subject = subject_of(slide, info, options) if options.fhir else None
            limited = options.budget.limited
            run = BudgetedRun(self.heads, prepared.grid, options.budget, began) if limited else None
            rows = None if run is None else run.rows
            if isinstance(slide, GivenSlide):
                rows = locality_order(prepared.grid) if rows is None else rows
                slide.expect(prepared.grid, rows)
            encoded = self.slide_encoder.encode(
                prepared,
                options,
                rows=rows,
                observe=None if run is None else run.observe,
                features_path=features_path,
                token=token,
                progress=progress,
            )
            partial = None if run is None else run.partial(encoded.bag)
            tiles = usable_tiles(encoded.bag, self.bundle.manifest.quality)
            with prepared.timed("heads"):
                predictions, attention = self.predict_bag(tiles.bag)
                if run is not None and partial is not None:
                    predictions = run.with_intervals(predictions, tiles.bag)
            report = assemble_report(
                self,
                _facts(prepared, encoded, tiles, self.bundle.site),
                predictions,
                attention,
                partial=partial,
                evidence=options.html or options.pdf,
            )
            if out is None:
                self.record(report, json_bytes(report.to_dict()))
                return report
            overview = prepared.overview() if needs_overview(report, options) else None
            written = write_report(
                report,
                out,
                overview,
                info,
                tiles.bag,
                options,
                save_features=encoded.write_features,
                read_tiles=lambda rows: prepared.read_tiles(
                    tiles.bag.xy[rows], self.bundle.preprocess.reduction
                ),
                record=self.record,
                dicom=dicom,
                subject=subject,
            )
            discard_partial(out / FEATURES_FILE)
            return written

    def predict_many(
        self,
        slides: Sequence[Path],
        out: Path,
        options: PredictOptions | None = None,
        *,
        cases: Sequence[Case] = (),
        overwrite: bool = False,
        token: CancellationToken | None = None,
        progress: BatchProgress | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Iterator[SlideResult | CaseResult]:
        """Predict each slide into ``out/<slide>/``, then each case into ``out/cases/<case>/``.

        Work is done as the results are asked for: one for each slide, in their order, then one for
        each case. A slide that has a whole report of this bundle, of the same file and with the
        same options that change results is skipped unless ``overwrite``;
        so is a case that was made of just these reports. Whatever a slide fails of, also in code
        of others, is its result's ``error`` and stops no other slide; its cases fail with it.
        ``note`` is called with what is worth telling meanwhile.

        Slides whose files have the same name, or one that is none for a folder, get another id,
        which ``slides.csv`` in ``out`` tells and keeps.

        Raises at once UsageError if a case has a slide that is not given, or options do not go
        together; and OutputError where ``out`` cannot be written. From the iterator come
        OutputError of a disk that is full or gone, and CancelledError (``token``, from another
        thread): they end the batch, and what was finished is kept.
        """
        return predict_many(
            self,
            slides,
            out,
            options,
            cases=cases,
            overwrite=overwrite,
            token=token,
            progress=progress,
            note=note,
        )

    def predict_bag(self, bag: FeatureBag) -> Predicted:
        """(each head's prediction, attention float32 [N, k] by head) for features at hand, all of
        them: :func:`~pathgene_rt.features.left_out.usable_tiles` leaves out what the bundle's
        policy of tile quality does.

        Raises as :meth:`HeadPanel.predict`.
        """
        return self.heads.predict(bag)

    def extract(
        self,
        slide: Path | GivenSlide,
        options: PredictOptions | None = None,
        *,
        out: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> tuple[FeatureBag, EncodeStats]:
        """Only the encoder's features of the slide's tiles, also to the file ``out`` if given.

        ``warn`` is called with what would stand in a report's warnings, such as damaged tiles.
        Raises as :meth:`predict` does; ``options.resume`` then goes on where this was.
        """
        self.service.process.require()
        options = options or PredictOptions()
        with ExitStack() as stack:
            if out is not None:
                stack.enter_context(sole_writer(out))
            prepared = stack.enter_context(prepare_slide(slide, self.bundle.preprocess, options))
            if isinstance(slide, GivenSlide):
                slide.expect(prepared.grid, locality_order(prepared.grid))
            encoded = self.slide_encoder.encode(
                prepared, options, features_path=out, token=token, progress=progress
            )
            if out is not None:
                encoded.write_features(out)
            if warn is not None:
                for warning in (*encoded.warnings, *self.engine_warnings):
                    warn(warning)
            return encoded.bag, encoded.stats

    def open_scan(
        self,
        mpp: float,
        size_px: tuple[int, int] | None = None,
        *,
        slide_id: str = "scan",
        background: Colour = WHITE,
        options: ScanOptions | None = None,
    ) -> ScanSession:
        """A slide that is pushed while it is scanned; any number of them at once.

        Arguments and errors are those of :class:`ScanSession`. Close it before the predictor.
        """
        self.service.process.require()
        return ScanSession(
            self, mpp, size_px, slide_id=slide_id, background=background, options=options
        )

    def record(self, report: Report, document: bytes) -> None:
        """Tell the audit trail, if there is one, of a report whose file will be ``document``.

        Raises as :meth:`AuditTrail.append`."""
        if self.audit is not None:
            facts = report_facts(report, self.signer, REPORT_FILE, sha256(document))
            self.audit.append(audit_event(report), facts)

    def record_case(self, report: CaseReport, document: bytes) -> None:
        """The same for a case."""
        if self.audit is not None:
            facts = case_facts(report, self.signer, sha256(document))
            self.audit.append("case-prediction", facts)

    @property
    def encoder_engine(self) -> EngineInfo:
        """What runs the encoder."""
        return self.service.engine.info

    @property
    def precision_asked(self) -> str:
        """What was asked for when the predictor was opened; "auto" leaves it to the machine."""
        return self.options.precision

    @property
    def head_engines(self) -> dict[str, EngineInfo]:
        """What runs each head."""
        return self.heads.infos

    @property
    def notes(self) -> tuple[str, ...]:
        """Which engine and precision run, why, and why preferred ones do not."""
        return self.engines.notes

    @property
    def engine_warnings(self) -> tuple[str, ...]:
        """What a reader of a report should know of the engines: a card that is not used, calls that
        became smaller."""
        return (*self.engines.warnings, *self.service.engine.warnings, *self.heads.warnings)

    def close(self) -> None:
        """Free the engines and the bundle. Idempotent."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _facts(
    prepared: PreparedSlide, encoded: EncodedSlide, tiles: UsableTiles, site: SiteProfile | None
) -> EncodedFacts:
    made_from = replace(encoded.made_from, site_sha256=None if site is None else site.sha256)
    return EncodedFacts(
        slide_id=prepared.slide_id,
        info=prepared.slide.info,
        reader=prepared.slide.reader,
        decode=encoded.decode,
        grid=prepared.grid,
        tiles=tiles,
        stats=encoded.stats,
        quality=prepared.quality,
        seconds=prepared.seconds,
        made_from=made_from.to_dict(),
        warnings=encoded.warnings,
    )
