"""From a slide and its grid to its bag, kept on the disk as it comes where that is wanted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathgene_rt.encode import TileOrder, TileProgress, encode_slide
from pathgene_rt.errors import EngineError
from pathgene_rt.feature_journal import FeatureJournal
from pathgene_rt.features import FeatureBag, write_features
from pathgene_rt.geometry import Float32Array, Int64Array
from pathgene_rt.model_spec import Preprocess
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.run_identity import RunIdentity
from pathgene_rt.slide_work import SlideWork
from pathgene_rt.streaming.cancellation import CancellationToken
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
from pathgene_rt.streaming.tile_faults import TileFaults
from pathgene_rt.tile_order import locality_order


@dataclass(frozen=True)
class EncodedSlide:
    """A slide's ``bag``, how it came about, and what a reader of the report should know of it."""

    bag: FeatureBag
    stats: EncodeStats
    warnings: tuple[str, ...] = ()
    journal: FeatureJournal | None = None

    def write_features(self, path: Path) -> None:
        """Make ``path`` the features file of the bag. Raises OutputError."""
        if self.journal is not None and self.journal.path == path:
            self.journal.commit()
        else:
            write_features(path, self.bag)

    def discard_journal(self) -> None:
        """What was kept on the way is not needed any more."""
        if self.journal is not None:
            self.journal.discard()


class SlideEncoder:
    """Encodes slides with one encoder. Thread-safe; slides at the same time share it in turn."""

    def __init__(
        self, service: EncoderService, preprocess: Preprocess, options: EngineOptions
    ) -> None:
        self._service = service
        self._spec = service.engine.spec
        self._info = service.engine.info
        self._preprocess = preprocess
        self._options = options

    def encode(
        self,
        work: SlideWork,
        options: PredictOptions,
        features_path: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> EncodedSlide:
        """The bag of all tiles of the slide's grid.

        If ``features_path`` is given, rows are kept beside it as they come, and those that an
        earlier run of the same kind kept are taken over with ``options.resume``. Raises SlideError,
        EngineError, OutputError, CancelledError.
        """
        order = TileOrder(locality_order(work.grid), self._options.batch)
        bag = self._empty_bag(work)
        faults = TileFaults(work.slide_id, len(bag))
        with ExitStack() as stack, work.timed("encode"):
            journal = None
            if features_path is not None:
                identity = RunIdentity.of(
                    work.path, work.slide.reader, "exact", work.grid, order, self._spec, self._info
                )
                journal = FeatureJournal(features_path, bag, order, identity, resume=options.resume)
                stack.enter_context(journal)
                order = replace(order, done=journal.done)

            def on_batch(first: int, rows: Int64Array, features: Float32Array) -> bool:
                if journal is not None:
                    journal.write(first, rows, features)
                return True

            _, stats = encode_slide(
                work.slide,
                work.grid,
                self._service,
                self._preprocess.reduction,
                bag.features,
                order,
                readers=options.readers,
                faults=faults,
                io_timeout_s=options.io_timeout_s,
                token=token,
                on_batch=on_batch,
                progress=progress,
            )
        if faults.count:
            work.quality["damaged_tiles"] = faults.count
        notes = (journal.note,) if journal is not None and journal.note else ()
        return EncodedSlide(bag, stats, (*notes, *faults.warnings), journal)

    def _empty_bag(self, work: SlideWork) -> FeatureBag:
        """The bag of the slide's grid, its features not yet filled."""
        if self._spec.feature_dim is None:
            raise EngineError(
                f"encoder {self._spec.name} declares no feature width; export it again"
            )
        return FeatureBag(
            slide_id=work.slide_id,
            features=np.empty((len(work.grid), self._spec.feature_dim), dtype=np.float32),
            xy=work.grid.xy,
            tile_px=work.grid.tile_px,
            mpp=work.grid.mpp,
            span_px=work.grid.span_px,
            encoder_sha256=self._spec.weights_sha256,
        )
