"""What the audit trail says of a case's report."""

from __future__ import annotations

from typing import Any

from pathgene_rt.cases.report import CASE_FILE, CaseReport
from pathgene_rt.report.audit_line import bundle_facts, withheld_codes


def case_facts(report: CaseReport, signer: str | None, digest: str) -> dict[str, Any]:
    """The facts of a line: the report's file has the hash ``digest``. Case and slides are called as
    the report calls them."""
    answers = [one.pooled for one in report.predictions]
    return {
        "bundle": bundle_facts(report.bundle, signer),
        "case": report.case_id,
        "slides": [one.slide_id for one in report.slides],
        "heads": [one.head for one in answers],
        "withheld": withheld_codes(answers),
        "result": {"file": CASE_FILE, "sha256": digest},
    }
