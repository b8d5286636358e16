"""The composition root: one bundle opened once, then slide after slide through it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from pathgene_rt.bundle import Bundle
from pathgene_rt.coordinates import grid_from_coords
from pathgene_rt.encode import EncodeStats, TileProgress, encode_slide
from pathgene_rt.engine import Engine, EngineInfo
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import BagError
from pathgene_rt.features import FeatureBag
from pathgene_rt.files import writable_folder
from pathgene_rt.geometry import Float32Array, TileGrid, UInt8Array
from pathgene_rt.heads import place_warnings, run_heads
from pathgene_rt.model_spec import HeadSpec
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.prediction import Prediction, make_prediction
from pathgene_rt.report import BundleIdentity, Provenance, Report
from pathgene_rt.report_files import write_report
from pathgene_rt.slides import Slide, open_slide
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.streaming.cancellation import CancellationToken
from pathgene_rt.tiling import plan_grid
from pathgene_rt.tissue import find_tissue

_HEATMAP_PX, _OVERVIEW_PX = 1200, 1600
"""An overview whose longer side has fewer pixels than the first makes a coarse heatmap: one of the
second is read instead."""


@dataclass
class _Work:
    """What has been found out about one slide so far."""

    slide: Slide
    slide_id: str
    grid: TileGrid
    overview: UInt8Array | None = None
    quality: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began


class Predictor:
    """Predicts slides with one bundle on this machine.

    Use as a context manager; one slide at a time. Engines are compiled once, at construction.
    Raises BundleError, EngineError and EngineUnavailableError.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        self.bundle = bundle
        self.options = options or EngineOptions()
        with ExitStack() as stack:
            stack.enter_context(bundle)
            self.engines = EngineFactory(bundle, self.options)
            self._encoder = stack.enter_context(self.engines.encoder())
            self._heads: list[tuple[HeadSpec, Engine]] = [
                (head, stack.enter_context(self.engines.head(head.name))) for head in bundle.heads
            ]
            self._resources = stack.pop_all()

    @classmethod
    def open(cls, path: Path, options: EngineOptions | None = None) -> Predictor:
        """Open and check the bundle at ``path`` and compile its engines."""
        return cls(Bundle.open(Path(path)), options)

    def predict(
        self,
        slide: Path,
        options: PredictOptions | None = None,
        *,
        out: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> Report:
        """Run the slide through encoder and heads; write the report's files if ``out`` is given.

        ``token`` stops the work from another thread. Raises SlideError, EngineError, OutputError,
        CancelledError; then nothing half-written is left in ``out``.
        """
        options = options or PredictOptions()
        if out is not None:
            writable_folder(out)
        with self._prepared(slide, options) as work:
            bag, stats = self._encode(work, options, token, progress)
            with work.timed("heads"):
                predictions, attention = self.predict_bag(bag)
            report = Report(
                slide_id=work.slide_id,
                intended_use=self.bundle.manifest.intended_use,
                predictions=predictions,
                attention=attention,
                quality=work.quality,
                provenance=self._provenance(work, stats),
                warnings=place_warnings(self.bundle.heads, bag),
            )
            if out is None:
                return report
            overview = _overview(work) if options.heatmaps and attention else None
            return write_report(report, out, overview, work.slide.info, bag, options)

    def predict_bag(
        self, bag: FeatureBag
    ) -> tuple[tuple[Prediction, ...], dict[str, Float32Array]]:
        """(each head's prediction, attention float32 [N, k] by head) for features at hand.

        Raises BagError if no head can take them: none, not finite, of another encoder;
        FeatureFileError if a head needs places and the bag has none; EngineError.
        """
        if bag.encoder_sha256 not in (None, self.bundle.encoder.weights_sha256):
            raise BagError(
                f"the features of {bag.slide_id} are of the encoder {bag.encoder_sha256[:12]}, the "
                f"bundle's is {self.bundle.encoder.weights_sha256[:12]}; extract the slide again"
            )
        results = run_heads(self._heads, bag)
        predictions = (
            make_prediction(head, results[head.name].logits) for head in self.bundle.heads
        )
        attention = {
            name: result.attention
            for name, result in results.items()
            if result.attention is not None
        }
        return tuple(predictions), attention

    def extract(
        self,
        slide: Path,
        options: PredictOptions | None = None,
        *,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> tuple[FeatureBag, EncodeStats]:
        """Only the encoder's features of the slide's tiles. Raises as :meth:`predict` does."""
        options = options or PredictOptions()
        with self._prepared(slide, options) as work:
            return self._encode(work, options, token, progress)

    @contextmanager
    def _prepared(self, path: Path, options: PredictOptions) -> Iterator[_Work]:
        """The open slide and its grid, with the seconds that took."""
        began = time.perf_counter()
        with open_slide(path, options.mpp) as slide:
            opened = time.perf_counter()
            work = self._planned(slide, options)
            work.seconds["open"] = opened - began
            work.seconds["tissue_and_grid"] = time.perf_counter() - opened
            yield work

    def _planned(self, slide: Slide, options: PredictOptions) -> _Work:
        slide_id = public_id(slide.info.slide_id, anonymize=options.anonymize)
        if options.coords is not None:
            grid = grid_from_coords(slide.info, self.bundle.preprocess, options.coords)
            return _Work(slide, slide_id, grid)
        mask, overview = find_tissue(slide, options.tissue)
        grid = plan_grid(slide.info, self.bundle.preprocess, mask, options.tissue)
        return _Work(slide, slide_id, grid, _picture(overview), mask.quality)

    def _encode(
        self,
        work: _Work,
        options: PredictOptions,
        token: CancellationToken | None,
        progress: TileProgress | None,
    ) -> tuple[FeatureBag, EncodeStats]:
        with work.timed("encode"):
            features, stats = encode_slide(
                work.slide,
                work.grid,
                self._encoder,
                self.bundle.preprocess.reduction,
                batch=self.options.batch,
                readers=options.readers,
                token=token,
                progress=progress,
            )
        bag = FeatureBag(
            slide_id=work.slide_id,
            features=features,
            xy=work.grid.xy,
            tile_px=work.grid.tile_px,
            mpp=work.grid.mpp,
            span_px=work.grid.span_px,
            encoder_sha256=self.bundle.encoder.weights_sha256,
        )
        return bag, stats

    def _provenance(self, work: _Work, stats: EncodeStats) -> Provenance:
        return Provenance(
            bundle=self.identity,
            encoder=self._encoder.info,
            heads=self.head_engines,
            engine_notes=self.notes,
            reader=work.slide.reader,
            slide_mpp=slide_mpp(work.slide.info),
            mpp=work.grid.mpp,
            tile_px=work.grid.tile_px,
            level=work.grid.level,
            tiles=stats.tiles,
            seconds={**work.seconds, "first_batch": stats.first_batch_s},
            tiles_per_second=stats.tiles_per_second,
            encoder_busy_share=stats.busy_share,
        )

    @property
    def identity(self) -> BundleIdentity:
        """Which bundle this is, for reports."""
        manifest = self.bundle.manifest
        return BundleIdentity(
            name=manifest.name,
            version=manifest.version,
            sha256=self.bundle.sha256,
            encoder_sha256=manifest.encoder.weights_sha256,
        )

    @property
    def head_engines(self) -> dict[str, EngineInfo]:
        """What runs each head."""
        return {head.name: engine.info for head, engine in self._heads}

    @property
    def notes(self) -> tuple[str, ...]:
        """Which engine and precision run, why, and why preferred ones do not."""
        return self.engines.notes

    def close(self) -> None:
        """Free the engines and the bundle. Idempotent."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def public_id(slide_id: str, *, anonymize: bool) -> str:
    """The slide's id in results: the file's stem, or 16 hex digits of its hash."""
    if not anonymize:
        return slide_id
    return hashlib.sha256(slide_id.encode()).hexdigest()[:16]


def _picture(overview: UInt8Array) -> UInt8Array:
    """No more of the overview than a heatmap shows: it is kept while the slide is encoded."""
    factor = max(overview.shape[:2]) // _HEATMAP_PX
    if factor < 2:
        return overview
    return np.asarray(Image.fromarray(overview).reduce(factor))


def _overview(work: _Work) -> UInt8Array:
    """The slide as a picture for heatmaps: that of the tissue if it is fine enough, else a new one
    whose longer side is about _OVERVIEW_PX, if the slide has as many.
    """
    if work.overview is not None and max(work.overview.shape[:2]) >= _HEATMAP_PX:
        return work.overview
    info = work.slide.info
    return work.slide.overview(slide_mpp(info) * max(1.0, max(info.size_px) / _OVERVIEW_PX)).rgb
