"""The one place where reports are made: of files and of slides that are pushed while scanned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.extraction.prepare import timed
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.domain import DomainDescription
from pathgene_rt.features.left_out import UsableTiles
from pathgene_rt.geometry import Float32Array, SlideInfo, TileGrid
from pathgene_rt.heads.agreement import agreeing, contradictions
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.heads.prediction import Partial, Prediction
from pathgene_rt.heads.run import place_warnings
from pathgene_rt.report.adequacy import inadequate, left_too_many_out
from pathgene_rt.report.domain import domain_warnings, outside_domain
from pathgene_rt.report.evidence import gather_evidence
from pathgene_rt.report.report import BundleIdentity, Provenance, Report
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.streaming.encoder_service import EncodeStats

Predicted = tuple[tuple[Prediction, ...], dict[str, Float32Array]]
"""Each head's prediction, and the attention float32 [N, k] by head of those that give it."""


class ReportModel(Protocol):
    """What reports of slides and cases need of a :class:`~pathgene_rt.predictor.Predictor`."""

    bundle: Bundle
    heads: HeadPanel
    domain: DomainDescription | None

    def predict_bag(self, bag: FeatureBag) -> Predicted: ...

    @property
    def encoder_engine(self) -> EngineInfo: ...

    @property
    def head_engines(self) -> dict[str, EngineInfo]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def engine_warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True)
class EncodedFacts:
    """How a slide became a bag. ``slide_id`` is the one that results show; ``reader`` opened the
    slide or took its pixels, ``decode`` says whether they are exact. ``seconds`` are those of the
    stages so far, ``made_from`` those of :class:`Provenance`, ``warnings`` what a reader of the
    report should know. Heads saw the bag of ``tiles``, which has all of them with their flags.
    """

    slide_id: str
    info: SlideInfo
    reader: str
    decode: str
    grid: TileGrid
    tiles: UsableTiles
    stats: EncodeStats
    quality: Mapping[str, float]
    seconds: Mapping[str, float]
    made_from: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def bundle_identity(bundle: Bundle) -> BundleIdentity:
    """Which bundle this is, for reports."""
    manifest = bundle.manifest
    return BundleIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=bundle.sha256,
        encoder_sha256=manifest.encoder.weights_sha256,
    )


def site_identity(bundle: Bundle) -> SiteIdentity | None:
    """Which site profile the bundle's heads answer by, for reports."""
    return None if bundle.site is None else bundle.site.identity


def assemble_report(
    model: ReportModel,
    slide: EncodedFacts,
    predictions: tuple[Prediction, ...],
    attention: Mapping[str, Float32Array],
    *,
    partial: Partial | None = None,
    evidence: bool = True,
) -> Report:
    """The report of a slide that was predicted as :class:`Report` says.

    With ``evidence`` the heads run again on parts of the bag, to find what their answers rest on.
    Answers are withheld where the slide misses the bundle's limits, would lose more tiles than they
    allow, or is unlike those of training and the bundle's policy says so; of a slide that was seen
    in part, its tiles count whether they were seen or not. Raises EngineError.
    """
    grid, stats, bag = slide.grid, slide.stats, slide.tiles.bag
    quality = {**slide.quality, **slide.tiles.quality}
    seconds = dict(slide.seconds)
    found = {}
    if evidence:
        with timed(seconds, "evidence"):
            found = gather_evidence(
                model.bundle.heads, model.heads.run, bag, predictions, attention
            )
    tiles = len(slide.tiles.whole) if partial is None else len(grid)
    manifest = model.bundle.manifest
    withheld = inadequate(manifest.adequacy, quality, tiles) + left_too_many_out(slide.tiles)
    verdict = None
    if model.domain is not None and manifest.domain is not None:
        with timed(seconds, "domain"):
            verdict = model.domain.judge(bag, manifest.domain.alarm)
        if manifest.domain.policy == "withhold":
            withheld += outside_domain(verdict)
    if withheld:
        predictions = tuple(replace(one, withheld=withheld) for one in predictions)
    predictions = agreeing(manifest.panel, predictions)
    return Report(
        slide_id=slide.slide_id,
        intended_use=model.bundle.manifest.intended_use,
        predictions=predictions,
        attention=attention,
        quality=quality,
        domain=verdict,
        tiles=slide.tiles,
        provenance=Provenance(
            bundle=bundle_identity(model.bundle),
            site=site_identity(model.bundle),
            encoder=model.encoder_engine,
            heads=model.head_engines,
            engine_notes=model.notes,
            reader=slide.reader,
            decode=slide.decode,
            slide_mpp=slide_mpp(slide.info),
            vendor=slide.info.vendor,
            mpp=grid.mpp,
            tile_px=grid.tile_px,
            level=grid.level,
            tiles=len(slide.tiles.whole),
            seconds={**seconds, "first_batch": stats.first_batch_s},
            tiles_per_second=stats.tiles_per_second,
            encoder_busy_share=stats.busy_share,
            made_from=slide.made_from,
        ),
        warnings=(
            *slide.warnings,
            *domain_warnings(verdict),
            *contradictions(manifest.panel, model.bundle.heads, predictions),
            *place_warnings(model.bundle.heads, bag),
            *model.engine_warnings,
        ),
        partial=partial,
        evidence=found,
    )
