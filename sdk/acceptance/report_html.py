"""The report of acceptance as one page that needs nothing else, to be read and printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.result import AcceptanceReport
from pathgene_rt.files import write_bytes
from pathgene_rt.pages.render import render


def write_html(path: Path, report: AcceptanceReport) -> None:
    """Write ``report`` to ``path``. Raises OutputError."""
    write_bytes(path, html(report).encode())


def html(report: AcceptanceReport) -> str:
    """The whole page. Of an engine that could not be tried, the reason stands once."""
    targets = [
        (name, [replace(one, detail="") for one in results] if why else results, why)
        for name, results, why in report.by_target()
    ]
    return render(
        "acceptance.html.j2",
        report=report,
        created=report.created,
        failed=[result for result in report.results if result.status == "failed"],
        targets=targets,
        proves={name: check.proves for name, check in CHECKS.items()},
        language="en",
    )
