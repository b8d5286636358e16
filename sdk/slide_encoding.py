"""From a slide and its grid to its bag, kept on the disk as it comes where that is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathgene_rt.encode import TileOrder, TileProgress, encode_slide
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import CancelledError, EngineError, SlideError
from pathgene_rt.feature_journal import FeatureJournal
from pathgene_rt.features import FeatureBag, write_features
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array, TileGrid
from pathgene_rt.model_spec import Preprocess
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.run_identity import RunIdentity
from pathgene_rt.scaled_decode import DecodeChoice, Encode, OpenEncoder, choose_decode
from pathgene_rt.slide_work import SlideWork
from pathgene_rt.streaming.cancellation import CancellationToken
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
from pathgene_rt.streaming.tile_faults import TileFaults
from pathgene_rt.tile_order import locality_order

Follow = Callable[[FeatureBag, BoolArray, Int64Array], bool]
"""Called after each batch, from the encoder's thread, with the bag in progress, which of its rows
are there (bool [N]), and the rows int64 [k] that have just come. False: no more are wanted."""

Judge = Callable[[FeatureBag], Mapping[str, Sequence[float]]]
"""Each head's probabilities, by head name, for a bag."""


@dataclass(frozen=True)
class EncodedSlide:
    """A slide's ``bag`` of the tiles that were encoded, and how it came about.

    ``decode`` says how pixels were decoded, ``warnings`` what a reader of the report should know.
    """

    bag: FeatureBag
    stats: EncodeStats
    decode: str
    warnings: tuple[str, ...] = ()
    journal: FeatureJournal | None = None

    def write_features(self, path: Path) -> None:
        """Make ``path`` the features file of the bag. Raises OutputError."""
        journal = self.journal
        if journal is not None and journal.path == path and len(self.bag) == journal.tiles:
            journal.commit()
        else:
            write_features(path, self.bag)

    def discard_journal(self) -> None:
        """What was kept on the way is not needed any more."""
        if self.journal is not None:
            self.journal.discard()


class SlideEncoder:
    """Encodes slides with one encoder. Thread-safe; slides at the same time share it in turn.

    ``judge`` is what a bag means to the heads; ``engines`` makes the float32 encoder that tells
    whether pixels may be decoded at reduced size (:mod:`pathgene_rt.scaled_decode`).
    """

    def __init__(
        self,
        service: EncoderService,
        preprocess: Preprocess,
        options: EngineOptions,
        judge: Judge,
        engines: EngineFactory,
    ) -> None:
        self._service = service
        self._spec = service.engine.spec
        self._info = service.engine.info
        self._preprocess = preprocess
        self._options = options
        self._judge = judge
        self._engines = engines
        self._trying = threading.Lock()

    def encode(
        self,
        work: SlideWork,
        options: PredictOptions,
        *,
        rows: Int64Array | None = None,
        follow: Follow | None = None,
        features_path: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> EncodedSlide:
        """The bag of the tiles ``rows`` int64 [n] of the slide's grid, taken in that order until
        ``follow`` wants no more; of all tiles by default.

        If ``features_path`` is given, rows are kept beside it as they come, and those that an
        earlier run of the same kind kept are taken over with ``options.resume``. Raises SlideError,
        EngineError, OutputError, CancelledError.
        """
        decode = self._choose_decode(work, options)
        if rows is None:
            rows = locality_order(work.grid)
        order = TileOrder(rows, self._options.batch)
        bag = self._empty_bag(work, work.grid)
        done = np.zeros(len(bag), dtype=np.bool_)
        faults = TileFaults(work.slide_id, len(bag))
        with ExitStack() as stack, work.timed("encode"):
            journal = None
            if features_path is not None:
                identity = RunIdentity.of(
                    work.path,
                    work.slide.reader,
                    "scaled" if decode.approximate else "exact",
                    work.grid,
                    order,
                    self._spec,
                    self._info,
                )
                journal = FeatureJournal(features_path, bag, order, identity, resume=options.resume)
                stack.enter_context(journal)
                order = replace(order, done=journal.done)
                done[order.rows_done()] = True
                if follow is not None and journal.done:
                    follow(bag, done, order.rows_done())

            def on_batch(first: int, came: Int64Array, features: Float32Array) -> bool:
                if journal is not None:
                    journal.write(first, came, features)
                done[came] = True
                return follow is None or follow(bag, done, came)

            stats = encode_slide(
                work.slide,
                work.grid,
                self._service,
                self._preprocess.reduction,
                bag.features,
                order,
                readers=options.readers,
                approximate=decode.approximate,
                faults=faults,
                io_timeout_s=options.io_timeout_s,
                token=token,
                on_batch=on_batch,
                progress=progress,
            )
        if faults.count:
            work.quality["damaged_tiles"] = faults.count
        notes = (journal.note,) if journal is not None and journal.note else ()
        if not done.all():
            bag = replace(bag, features=bag.features[done], xy=bag.xy[done])
        why = decode.why
        if decode.untried and done.all() and self._engines.cache is not None:
            why = f"exact; from now on {self._try_reduced_size(work, options, token)}"
        return EncodedSlide(bag, stats, why, (*notes, *faults.warnings), journal)

    def _try_reduced_size(
        self, work: SlideWork, options: PredictOptions, token: CancellationToken | None
    ) -> str:
        """How slides stored like this one will be decoded from now on, in words.

        Nothing that goes wrong here may cost the slide its features. Raises CancelledError.
        """

        @contextmanager
        def float32_encoder() -> Iterator[Encode]:
            with self._engines.encoder("float32") as engine, EncoderService(engine) as service:

                def encode(grid: TileGrid, approximate: bool) -> Float32Array:
                    features = self._empty_bag(work, grid).features
                    encode_slide(
                        work.slide,
                        grid,
                        service,
                        self._preprocess.reduction,
                        features,
                        TileOrder(np.arange(len(grid)), self._options.batch),
                        readers=options.readers,
                        approximate=approximate,
                        # The limit is that of the whole slide, not of the few tiles tried.
                        faults=TileFaults(work.slide_id, len(work.grid)),
                        io_timeout_s=options.io_timeout_s,
                        token=token,
                    )
                    return features

                yield encode

        # So that of several slides at once, too, only the first pays.
        with self._trying, work.timed("decode_check"):
            try:
                return self._choose_decode(work, options, float32_encoder).why
            except CancelledError:
                raise
            except (EngineError, SlideError) as error:
                return f"exact (reduced size could not be tried: {error})"

    def _choose_decode(
        self, work: SlideWork, options: PredictOptions, open_encoder: OpenEncoder | None = None
    ) -> DecodeChoice:
        def probabilities(grid: TileGrid, features: Float32Array) -> Mapping[str, Sequence[float]]:
            return self._judge(replace(self._empty_bag(work, grid), features=features))

        return choose_decode(
            work.slide,
            work.grid,
            self._preprocess.reduction,
            self._info.precision,
            open_encoder,
            probabilities,
            exact=options.exact,
            key=self._engines.key,
            cache=self._engines.cache,
        )

    def _empty_bag(self, work: SlideWork, grid: TileGrid) -> FeatureBag:
        """The bag of ``grid``, its features not yet filled."""
        if self._spec.feature_dim is None:
            raise EngineError(
                f"encoder {self._spec.name} declares no feature width; export it again"
            )
        return FeatureBag(
            slide_id=work.slide_id,
            features=np.empty((len(grid), self._spec.feature_dim), dtype=np.float32),
            xy=grid.xy,
            tile_px=grid.tile_px,
            mpp=grid.mpp,
            span_px=grid.span_px,
            encoder_sha256=self._spec.weights_sha256,
        )
