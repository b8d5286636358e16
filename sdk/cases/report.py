"""What is said about a case: each head's mean over the slides, and its answer for all tiles pooled.

``case.json`` (schema version 2) has the keys of :meth:`CaseReport.to_dict`. It names the slides'
reports by hash, so a case is done again when one of them is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.cases.page import case_page, page_slides
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.errors import OutputError
from pathgene_rt.files import json_bytes, reason, writable_folder, write_bytes
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import Language
from pathgene_rt.pages.render import framed
from pathgene_rt.report.page_files import HTML_FILE
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
    the slides' reports. ``site`` is the profile that the heads answer by, if any.
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


def write_case(
    report: CaseReport,
    folder: Path,
    slides: Sequence[Path] = (),
    page: Language | None = None,
    record: Callable[[CaseReport, bytes], None] | None = None,
) -> None:
    """Write ``case.json`` in ``folder``, whole or not at all, before it ``report.html`` if it is to
    open in the language ``page``. The slides' results lie in the folders ``slides``. ``record`` is
    called with the report and the bytes of its file, before they count as written.

    Raises OutputError; FileAccessError if another process writes there.
    """
    document = report.to_dict()
    with sole_writer(writable_folder(folder)):
        if page is not None:
            _write_page(document, folder, slides, page)
        data = json_bytes(document)
        recorded = None if record is None else partial(record, report, data)
        write_bytes(folder / CASE_FILE, data, before_it_counts=recorded)


def add_page(folder: Path, slides: Sequence[Path], language: Language) -> None:
    """Write the page of the case in ``folder`` if it has none: an older version made it, or it was
    not asked for. Raises as :func:`write_case`."""
    if (folder / HTML_FILE).is_file():
        return
    with sole_writer(folder):
        document = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        _write_page(document, folder, slides, language)


def _write_page(
    document: Mapping[str, Any], folder: Path, slides: Sequence[Path], language: Language
) -> None:
    page = case_page(document, page_slides(document, slides, folder), language)
    write_bytes(folder / HTML_FILE, page.encode())


def remove_case(folder: Path) -> None:
    """Remove an older case's files, if there are any: its slides' reports are no longer those that
    they were made of. Raises OutputError.
    """
    try:
        for name in (CASE_FILE, HTML_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot replace the older case in {folder}: {reason(error)}; close what shows it"
        ) from error


def is_complete_case(folder: Path, bundle_sha256: str, slides: tuple[CaseSlide, ...]) -> bool:
    """Whether ``folder`` holds a case made with that bundle of just these reports of ``slides``."""
    try:
        document = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        return (
            document["schema_version"] in READABLE_VERSIONS
            and document["provenance"]["bundle"]["sha256"] == bundle_sha256
            and [entry["report_sha256"] for entry in document["slides"]]
            == [slide.report_sha256 for slide in slides]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
