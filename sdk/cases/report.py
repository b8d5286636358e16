"""What is said about a case: each head's mean over the slides, and its answer for all tiles pooled.

``case.json`` (schema version 2) has the keys of :meth:`CaseReport.to_dict`. It names the slides'
reports by hash, so a case is done again when one of them is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.cases.page import case_page
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.errors import OutputError
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.options import Language
from pathgene_rt.pages.render import framed
from pathgene_rt.report.report import (
    RESEARCH_USE,
    BundleIdentity,
    software_versions,
    utc_now,
    without_nan,
)
from pathgene_rt.report.stored import StoredReport

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 had no ``reasons`` and ``zones``."""
CASE_FILE = "case.json"


@dataclass(frozen=True, kw_only=True)
class CaseSlide:
    """A slide of a case; of its own report the hash, and the engine and precision of the encoder
    ("openvino float32"), None where there is no report, and the heads whose answers are withheld.
    """

    slide_id: str
    tiles: int
    report_sha256: str | None = None
    encoder: str | None = None
    withheld: frozenset[str] = frozenset()

    @classmethod
    def from_report(cls, folder: Path) -> CaseSlide:
        """The slide whose report lies in ``folder``. Raises OutputError."""
        report = StoredReport.read(folder)
        return cls(
            slide_id=report.slide_id,
            tiles=report.tiles,
            report_sha256=report.sha256,
            encoder=report.encoder,
            withheld=report.withheld,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "slide": self.slide_id,
            "tiles": self.tiles,
            "report_sha256": self.report_sha256,
            "encoder": self.encoder,
        }


@dataclass(frozen=True, kw_only=True)
class CasePrediction:
    """One head's answers: ``slides`` in the case's order, ``mean`` of their probabilities, and for
    the bag of all tiles ``pooled``.
    """

    slides: tuple[Prediction, ...]
    mean: Prediction
    pooled: Prediction

    def to_dict(self, slide_ids: tuple[str, ...]) -> dict[str, Any]:
        pooled = self.pooled.to_dict()
        own = ("probabilities", "call", "reasons", "called", "logits")
        shared = {key: value for key, value in pooled.items() if key not in own}
        mean = self.mean.to_dict()
        probabilities = {
            slide_id: list(slide.probabilities)
            for slide_id, slide in zip(slide_ids, self.slides, strict=True)
        }
        return {
            **shared,
            "mean_of_slides": {**{key: mean[key] for key in own[:-1]}, "slides": probabilities},
            "pooled_bag": {key: pooled[key] for key in own},
        }


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """All that is known about one case. ``heads`` are the engines that ran; the encoder's are in
    the slides' reports. ``site`` is the profile that the heads answer by, if any. ``files`` are
    names of files beside ``case.json`` by what they are; the page is not among them.
    """

    case_id: str
    slides: tuple[CaseSlide, ...]
    predictions: tuple[CasePrediction, ...]
    bundle: BundleIdentity
    heads: Mapping[str, EngineInfo]
    site: SiteIdentity | None = None
    warnings: tuple[str, ...] = ()
    intended_use: str = RESEARCH_USE
    created: str = field(default_factory=utc_now)
    versions: Mapping[str, str] = field(default_factory=software_versions)
    files: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_html(self, language: Language = "en") -> str:
        """The page of the case's figures; with pictures and links to its slides it is the
        ``report.html`` beside ``case.json``."""
        return case_page(self.to_dict(), language=language)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return framed(self.to_html())

    def to_dict(self) -> dict[str, Any]:
        """The document of ``case.json``."""
        slide_ids = tuple(slide.slide_id for slide in self.slides)
        document: dict[str, Any] = without_nan(
            {
                "schema_version": self.schema_version,
                "case": self.case_id,
                "created": self.created,
                "intended_use": self.intended_use,
                "slides": [slide.to_dict() for slide in self.slides],
                "predictions": [prediction.to_dict(slide_ids) for prediction in self.predictions],
                "provenance": {
                    "bundle": asdict(self.bundle),
                    "site": None if self.site is None else asdict(self.site),
                    "engines": {"heads": {name: asdict(info) for name, info in self.heads.items()}},
                    "tiles": {"count": sum(slide.tiles for slide in self.slides)},
                    "versions": dict(self.versions),
                },
                "warnings": list(self.warnings),
                "files": dict(self.files),
            }
        )
        return document


def disagreements(predictions: tuple[CasePrediction, ...]) -> tuple[str, ...]:
    """A warning for each head whose two answers for the case differ in their call."""
    return tuple(
        f"{both.pooled.head}: the mean of the slides is called {both.mean.call}, "
        f"the pooled bag {both.pooled.call}"
        for both in predictions
        if both.mean.call != both.pooled.call
    )


def with_slide_reports(report: CaseReport, slides: tuple[CaseSlide, ...]) -> CaseReport:
    """``report`` with what the slides' own reports say, and warnings where they do not go together.
    A head whose answer for a slide is withheld gives none for the case either.

    Raises OutputError if the reports are not of these slides' features.
    """
    for stated, used in zip(slides, report.slides, strict=True):
        if (stated.slide_id, stated.tiles) != (used.slide_id, used.tiles):
            raise OutputError(
                f"the features of {used.slide_id} hold {used.tiles} tiles, its report is of "
                f"{stated.slide_id} with {stated.tiles}; predict it again with --overwrite"
            )
    encoders = sorted({slide.encoder or "unknown" for slide in slides})
    mixed = f"the features of the slides are of different engines: {', '.join(encoders)}"
    warnings = (mixed,) if len(encoders) > 1 else ()
    return replace(
        report,
        slides=slides,
        predictions=tuple(_withheld(one, slides) for one in report.predictions),
        warnings=(*warnings, *report.warnings),
    )


def _withheld(both: CasePrediction, slides: Sequence[CaseSlide]) -> CasePrediction:
    """``both``, withheld where that of a slide is."""
    count = sum(both.pooled.head in slide.withheld for slide in slides)
    if count == 0:
        return both
    reasons = (Reason(code="slides_withheld", figures={"count": count}),)
    return replace(
        both,
        mean=replace(both.mean, withheld=reasons),
        pooled=replace(both.pooled, withheld=reasons),
    )
