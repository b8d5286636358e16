"""What is said of a slide that was pushed: the report that its file would get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.extraction.prepare import timed
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import SlideInfo, TileGrid, UInt8Array
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.heads.run import place_warnings
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.report.report import BundleIdentity, Provenance, Report
from pathgene_rt.report.writer import write_report
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats


class ScanModel(Protocol):
    """What a scan needs of a :class:`~pathgene_rt.predictor.Predictor`."""

    bundle: Bundle
    options: EngineOptions
    service: EncoderService
    heads: HeadPanel

    @property
    def identity(self) -> BundleIdentity: ...

    @property
    def head_engines(self) -> dict[str, EngineInfo]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def engine_warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ScannedSlide:
    """A slide whose tiles are all encoded. ``overview`` uint8 [h, w, 3] shows it, ``quality`` are
    figures of its tissue, ``never_pushed`` is the share of it that did not come.
    """

    info: SlideInfo
    grid: TileGrid
    bag: FeatureBag
    overview: UInt8Array
    quality: dict[str, float]
    stats: EncodeStats
    never_pushed: float


@dataclass(frozen=True)
class ScanResult:
    """The report of ``slide``."""

    report: Report
    slide: ScannedSlide

    def written(self, folder: Path) -> Report:
        """The report with its files in ``folder``. Raises OutputError."""
        overview = self.slide.overview if self.report.attention else None
        return write_report(
            self.report, folder, overview, self.slide.info, self.slide.bag, PredictOptions()
        )


def scan_result(model: ScanModel, slide: ScannedSlide, seconds: dict[str, float]) -> ScanResult:
    """Run the heads; ``seconds`` are those of the stages before. Raises BagError, EngineError."""
    with timed(seconds, "heads"):
        predictions, attention = model.heads.predict(slide.bag)
    grid, stats = slide.grid, slide.stats
    report = Report(
        slide_id=slide.info.slide_id,
        intended_use=model.bundle.manifest.intended_use,
        predictions=predictions,
        attention=attention,
        quality=slide.quality,
        provenance=Provenance(
            bundle=model.identity,
            encoder=model.service.engine.info,
            heads=model.head_engines,
            engine_notes=model.notes,
            reader="scan session",
            slide_mpp=slide_mpp(slide.info),
            mpp=grid.mpp,
            tile_px=grid.tile_px,
            level=grid.level,
            tiles=len(grid),
            seconds={**seconds, "first_batch": stats.first_batch_s},
            tiles_per_second=stats.tiles_per_second,
            encoder_busy_share=stats.busy_share,
        ),
        warnings=(
            *_missing(slide),
            *place_warnings(model.bundle.heads, slide.bag),
            *model.engine_warnings,
        ),
    )
    return ScanResult(report, slide)


def _missing(slide: ScannedSlide) -> tuple[str, ...]:
    if slide.never_pushed == 0:
        return ()
    share = max(slide.never_pushed, 0.0001)
    return (f"{share:.2%} of the slide was never pushed and counts as background",)
