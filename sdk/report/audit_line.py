"""What the audit trail says of a report: who it is about, what made it, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.report import BundleIdentity, Report

_OF_THE_SLIDE = ("slide_sha256", "slide_time_sha256")


def audit_event(report: Report) -> str:
    """``prediction``, or ``withheld`` where no head gives an answer."""
    answers = report.predictions
    return "withheld" if answers and all(one.withheld for one in answers) else "prediction"


def report_facts(report: Report, signer: str | None, file: str, digest: str) -> dict[str, Any]:
    """The facts of a line: the ``file`` has the hash ``digest``. The slide is called as its report
    calls it; no probability and no call is told."""
    provenance = report.provenance
    made_from = dict(provenance.made_from or {})
    return {
        "bundle": bundle_facts(provenance.bundle, signer),
        "slide": {"id": report.slide_id, "sha256": made_from.get("slide_sha256")},
        "options": {key: made_from[key] for key in made_from if key not in _OF_THE_SLIDE},
        "engine": f"{provenance.encoder.backend} {provenance.encoder.precision}",
        "heads": [one.head for one in report.predictions],
        "withheld": withheld_codes(report.predictions),
        "result": {"file": file, "sha256": digest},
    }


def bundle_facts(bundle: BundleIdentity, signer: str | None) -> Mapping[str, str | None]:
    """Which model, by hash, and who signed it; None where no signature was asked for."""
    return {**asdict(bundle), "signer": signer}


def withheld_codes(predictions: Sequence[Prediction]) -> dict[str, list[str]]:
    """Why each head that gives no answer gives none."""
    return {
        one.head: [reason.code for reason in one.withheld] for one in predictions if one.withheld
    }
