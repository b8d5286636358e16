"""From a slide and its grid to its bag, kept on the disk as it comes where that is wanted."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy, excluding
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import EncodedTileError, TileDecodeError
from pathgene_rt.extraction.decode_choice import DecodeChoice, PredictProbabilities
from pathgene_rt.extraction.extract import (
    TileOrder,
    TileProgress,
    bag_of_grid,
    encode_slide,
    feature_dim,
)
from pathgene_rt.extraction.feature_journal import FeatureJournal
from pathgene_rt.extraction.prepare import PreparedSlide
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.extraction.run_identity import RunIdentity
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.features.left_out import excluded
from pathgene_rt.features.tile_attributes import Origin
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.quality.check import CheckedSlide
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
from pathgene_rt.tiles.read_order import locality_order

BatchObserver = Callable[[FeatureBag, BoolArray, Int64Array], bool]
"""Called after each batch, from the encoder's thread, with the bag in progress, which of its rows
are there (bool [N]), and the rows int64 [k] that have just come. False: no more are wanted."""


@dataclass(frozen=True)
class EncodedSlide:
    """A slide's ``bag`` of the tiles that were encoded, and how it came about.

    ``decode`` says how pixels were decoded, ``warnings`` what a reader of the report should know,
    ``made_from`` which slide and options it is of. ``stats`` are those since the last time that the
    way of decoding had to be changed. ``level_rule`` is the bundle's.
    """

    bag: FeatureBag
    stats: EncodeStats
    decode: str
    made_from: ResultIdentity
    level_rule: str
    warnings: tuple[str, ...] = ()
    journal: FeatureJournal | None = None

    def write_features(self, path: Path) -> None:
        """Make ``path`` the features file of the bag. Raises OutputError."""
        journal = self.journal
        if journal is not None and journal.path == path and len(self.bag) == journal.tiles:
            journal.commit(self.bag.flags)
        else:
            write_features(path, self.bag, Origin(level_rule=self.level_rule))


class SlideEncoder:
    """Encodes slides with one encoder. Thread-safe; slides at the same time share it in turn.

    ``probabilities_of`` is what a bag means to the heads; ``engines`` made the encoder, and makes
    others that :mod:`~pathgene_rt.extraction.decode_choice` needs. The bag of an encoded slide has
    all tiles, with their flags; ``policy`` leaves some out of what batches are observed, and has
    every tile looked at.
    """

    def __init__(
        self,
        service: EncoderService,
        preprocess: Preprocess,
        options: EngineOptions,
        probabilities_of: PredictProbabilities,
        engines: EngineFactory,
        policy: TilePolicy | None = None,
    ) -> None:
        self._service = service
        self._spec = service.engine.spec
        self._info = service.engine.info
        self._preprocess = preprocess
        self._options = options
        self._probabilities_of = probabilities_of
        self._engines = engines
        self._policy = excluding(policy)
        self._trying = threading.Lock()

    def encode(
        self,
        prepared: PreparedSlide,
        options: PredictOptions,
        *,
        rows: Int64Array | None = None,
        observe: BatchObserver | None = None,
        features_path: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> EncodedSlide:
        """The bag of the tiles ``rows`` int64 [n] of the slide's grid, taken in that order until
        ``observe`` wants no more; of all tiles by default.

        If ``features_path`` is given, rows are kept beside it as they come, and those that an
        earlier run of the same kind kept are taken over with ``options.resume``. Raises SlideError,
        EngineError, OutputError, CancelledError.
        """
        token = token or CancellationToken()
        trials = DecodeChoice(
            prepared,
            options,
            token,
            self._service,
            self._preprocess.reduction,
            self._options.batch,
            self._probabilities_of,
            self._engines,
            self._trying,
            looks_at_all=self._policy is not None,
        )
        decode = trials.choose()
        made_from = ResultIdentity.of(prepared.path, options, self._info.precision)
        if rows is None:
            rows = locality_order(prepared.grid)
        order = TileOrder(rows, self._options.batch)
        growing = GrowingBag(feature_dim(self._spec), len(prepared.grid))
        bag = bag_of_grid(prepared.slide_id, prepared.grid, self._spec, growing.features)
        inspection = TileInspection(CheckedSlide(prepared.slide_id, prepared.grid.mpp, len(bag)))
        bag = replace(bag, flags=TileFlags.none_checked(inspection.names, len(bag)))
        notes: list[str] = []
        observed = self._observing(observe, bag, growing, inspection)
        with ExitStack() as stack, prepared.timed("encode"):
            journal = None
            if features_path is not None:
                identity = RunIdentity.of(
                    made_from,
                    prepared.slide.reader,
                    decode.name,
                    prepared.grid,
                    order,
                    self._spec,
                    self._info,
                )
                journal = FeatureJournal(
                    features_path, bag, growing, order, identity, resume=options.resume
                )
                stack.enter_context(journal)
                order = replace(order, done=journal.done)
                for first, found in journal.flags.items():
                    kept = order.rows_of(first, order.batch)
                    flags = TileFlags.from_text(found, len(kept))
                    inspection.restore(kept, prepared.grid.xy[kept], flags)
                if observe is not None and journal.done:
                    observed(order.rows_done())

            firsts = set(order.done)

            def on_batch(first: int, came: Int64Array, features: Float32Array) -> bool:
                if journal is not None:
                    journal.write(first, came, features, inspection.record(came).text)
                firsts.add(first)
                return observed(came)

            run = functools.partial(
                encode_slide,
                prepared.slide,
                prepared.grid,
                self._service,
                self._preprocess.reduction,
                growing,
                readers=options.readers,
                approximate=decode.approximate,
                inspection=inspection,
                io_timeout_s=options.io_timeout_s,
                on_batch=on_batch,
                progress=progress,
            )
            try:
                stats = run(order, source=decode.source, token=token.child())
            except (EncodedTileError, TileDecodeError) as error:
                notes.append(f"not decoded on the GPU from tile {growing.encoded} on: {error}")
                rest = replace(order, done=frozenset(firsts))
                stats = run(rest, token=token)
        bag = replace(bag, flags=inspection.of_rows(np.arange(len(bag))))
        if not growing.is_whole:
            bag = bag.take(growing.done)
        assert bag.flags is not None  # it was just made with them
        prepared.quality.update(bag.flags.quality)
        if journal is not None and journal.note:
            notes.append(journal.note)
        warnings = (*prepared.slide.info.warnings, *prepared.warnings, *notes, *inspection.warnings)
        why = decode.why
        if decode.untried and growing.is_whole and self._engines.cache is not None:
            why = f"{decode.name}; from now on {trials.measure()}"
        return EncodedSlide(
            bag,
            stats,
            prepared.concealed(why),
            made_from,
            self._preprocess.level_rule,
            tuple(prepared.concealed(warning) for warning in warnings),
            journal,
        )

    def _observing(
        self,
        observe: BatchObserver | None,
        bag: FeatureBag,
        growing: GrowingBag,
        inspection: TileInspection,
    ) -> Callable[[Int64Array], bool]:
        """Shows ``observe`` the tiles that came, but for those that heads do not see."""
        seen: BoolArray = np.zeros(len(bag), dtype=np.bool_)

        def observed(came: Int64Array) -> bool:
            if observe is None:
                return True
            if self._policy is None:
                return observe(bag, growing.done, came)
            flags = inspection.of_rows(came)
            seen[came] = ~excluded(flags, self._policy, bag.slide_id)
            return observe(bag, seen.copy(), came[seen[came]])

        return observed
