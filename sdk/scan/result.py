"""What is said of a slide that was pushed: the report that its file would get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pathgene_rt.extraction.prepare import timed
from pathgene_rt.features.left_out import UsableTiles
from pathgene_rt.files import json_bytes, writable_folder
from pathgene_rt.geometry import SlideInfo, TileGrid, UInt8Array
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.report.assemble import EncodedFacts, ReportModel, assemble_report
from pathgene_rt.report.contents import RecordReport
from pathgene_rt.report.report import Report
from pathgene_rt.report.writer import write_report
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats


class ScanModel(ReportModel, Protocol):
    """What a scan needs of a :class:`~pathgene_rt.predictor.Predictor`."""

    options: EngineOptions
    service: EncoderService

    def record(self, report: Report, document: bytes) -> None: ...


@dataclass(frozen=True)
class ScannedSlide:
    """A slide whose tiles are all encoded. ``overview`` uint8 [h, w, 3] shows it, ``quality`` are
    figures of its tissue and tiles, ``tiles`` what heads see of all, ``never_pushed`` is the share
    of it that did not come.
    """

    info: SlideInfo
    grid: TileGrid
    tiles: UsableTiles
    overview: UInt8Array
    quality: dict[str, float]
    stats: EncodeStats
    never_pushed: float


@dataclass(frozen=True)
class ScanResult:
    """The report of ``slide``; ``record`` is told of it when it is given out."""

    report: Report
    slide: ScannedSlide
    record: RecordReport

    def given(self) -> Report:
        """The report without files."""
        self.record(self.report, json_bytes(self.report.to_dict()))
        return self.report

    def written(self, folder: Path) -> Report:
        """The report with its files in ``folder``. Raises OutputError; FileAccessError if another
        process writes there."""
        slide = self.slide
        with sole_writer(writable_folder(folder)):
            return write_report(
                self.report,
                folder,
                slide.overview,
                slide.info,
                slide.tiles.bag,
                PredictOptions(),
                record=self.record,
            )


def scan_result(model: ScanModel, slide: ScannedSlide, seconds: dict[str, float]) -> ScanResult:
    """Run the heads; ``seconds`` are those of the stages before. Raises BagError, EngineError."""
    with timed(seconds, "heads"):
        predictions, attention = model.predict_bag(slide.tiles.bag)
    facts = EncodedFacts(
        slide_id=slide.info.slide_id,
        info=slide.info,
        reader="scan session",
        decode="exact",
        grid=slide.grid,
        tiles=slide.tiles,
        stats=slide.stats,
        quality=slide.quality,
        seconds=seconds,
        warnings=_missing(slide),
    )
    return ScanResult(assemble_report(model, facts, predictions, attention), slide, model.record)


def _missing(slide: ScannedSlide) -> tuple[str, ...]:
    if slide.never_pushed == 0:
        return ()
    share = max(slide.never_pushed, 0.0001)
    return (f"{share:.2%} of the slide was never pushed and counts as background",)
