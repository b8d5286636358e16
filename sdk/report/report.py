"""What is said about one slide: predictions, where they look, quality, and how it came about.

``report.json`` (schema version 3) has the keys of :meth:`Report.to_dict`. It is written after all
other files, so a folder with a report is complete. No path of the slide is in it: only its id.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pathgene_rt.bundle.site_profile import SiteIdentity
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.features.domain import DomainVerdict
from pathgene_rt.features.left_out import UsableTiles
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.prediction import Partial, Prediction, make_prediction
from pathgene_rt.options import Language
from pathgene_rt.package_versions import package_version
from pathgene_rt.pages.render import framed
from pathgene_rt.report.evidence import HeadEvidence
from pathgene_rt.report.page import report_page

__all__ = ["Prediction", "Provenance", "Report", "make_prediction", "software_versions"]

SCHEMA_VERSION = 3
RESEARCH_USE = "Research use only. Not a diagnosis."


def software_versions() -> dict[str, str]:
    """Versions of what computes a report beside the engine, which names its own."""
    return {
        "pathgene-rt": package_version("pathgene-rt"),
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def utc_now() -> str:
    """Now as reports state it: ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class BundleIdentity:
    """Which model made a report: the bundle's name, version and hash, and its encoder's."""

    name: str
    version: str
    sha256: str
    encoder_sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a report came about.

    ``engine_notes`` say which engines were not used and why, and why this precision. ``reader``
    opened the slide, of a scanner of ``vendor`` as far as the file says, ``decode`` says whether
    its pixels were decoded exactly. ``slide_mpp`` is the scale of level 0, ``mpp`` that of the
    tiles as encoded (``tile_px`` square, read from pyramid ``level``). ``seconds`` are wall time by
    stage; ``encoder_busy_share`` 0..1 is the part of encoding in which the encoder had work.
    ``made_from`` says in hashes and options which file the slide was and what was asked for, so
    that a later run knows whether this is what it would do; None for a slide that was pushed.
    ``site`` is the site profile that calibrated the heads and set their cut-offs; None: they are as
    the bundle has them.
    """

    bundle: BundleIdentity
    encoder: EngineInfo
    heads: dict[str, EngineInfo]
    engine_notes: tuple[str, ...]
    reader: str
    decode: str
    slide_mpp: float
    mpp: float
    tile_px: int
    level: int
    tiles: int
    seconds: dict[str, float]
    tiles_per_second: float
    encoder_busy_share: float
    made_from: Mapping[str, Any] | None = None
    site: SiteIdentity | None = None
    vendor: str = ""
    versions: dict[str, str] = field(default_factory=software_versions)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``report.json``; seconds to the millisecond."""
        return {
            "bundle": asdict(self.bundle),
            "site": None if self.site is None else asdict(self.site),
            "engines": {
                "encoder": asdict(self.encoder),
                "heads": {name: asdict(info) for name, info in self.heads.items()},
                "notes": list(self.engine_notes),
            },
            "slide": {
                "reader": self.reader,
                "decode": self.decode,
                "mpp": self.slide_mpp,
                "vendor": self.vendor,
            },
            "tiles": {
                "count": self.tiles,
                "tile_px": self.tile_px,
                "mpp": self.mpp,
                "level": self.level,
            },
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "tiles_per_second": round(self.tiles_per_second, 2),
            "encoder_busy_share": round(self.encoder_busy_share, 4),
            "made_from": None if self.made_from is None else dict(self.made_from),
            "versions": dict(self.versions),
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is known about one slide after prediction.

    ``attention`` holds float32 [N, k] by head name, normalised over the N tiles; it stays in memory
    and goes into pictures and GeoJSON, not into the JSON. ``quality`` are figures of tissue and
    quality, units in their names. ``created`` is ISO 8601, UTC. ``files`` are the names of files
    beside ``report.json`` by what they are; empty as long as nothing was written. ``partial`` is
    None where every tile was seen; otherwise predictions have intervals, and attention, heatmaps
    and features are of the tiles that were seen. ``evidence`` by head is what the answers of heads
    with attention rest on. ``domain`` says whether the slide is like those of training; None where
    the bundle does not describe them. ``tiles`` says which of the slide's heads saw, and what is
    wrong with them; like attention it is not in the JSON. Attention is of those that they saw.
    """

    slide_id: str
    predictions: tuple[Prediction, ...]
    provenance: Provenance
    attention: Mapping[str, Float32Array] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    intended_use: str = RESEARCH_USE
    created: str = field(default_factory=utc_now)
    files: Mapping[str, str] = field(default_factory=dict)
    partial: Partial | None = None
    evidence: Mapping[str, HeadEvidence] = field(default_factory=dict)
    domain: DomainVerdict | None = None
    tiles: UsableTiles | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The document of ``report.json``. A number that is not known is null, never NaN."""
        document: dict[str, Any] = without_nan(
            {
                "schema_version": self.schema_version,
                "slide": self.slide_id,
                "created": self.created,
                "intended_use": self.intended_use,
                "partial": None if self.partial is None else asdict(self.partial),
                "predictions": [prediction.to_dict() for prediction in self.predictions],
                "evidence": {head: found.to_dict() for head, found in self.evidence.items()},
                "quality": dict(self.quality),
                "domain": None if self.domain is None else self.domain.to_dict(),
                "provenance": self.provenance.to_dict(),
                "warnings": list(self.warnings),
                "files": dict(self.files),
            }
        )
        return document

    def to_html(self, language: Language = "en") -> str:
        """The page of the report's figures, without pictures: those need the slide and are in the
        ``report.html`` that :func:`~pathgene_rt.report.writer.write_report` makes."""
        return report_page(self.to_dict(), language=language)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own, so that its style stays there."""
        return framed(self.to_html())


def without_nan(value: Any) -> Any:
    """``value``, a JSON document, with null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
