"""What is said and drawn of a slide.

``report`` is the document, ``writer`` puts it and its pictures into a folder; ``heatmap`` and
``geojson`` draw what ``attention`` ranks. Imports what a report is about: heads, extraction, and
all below them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.report.report import Provenance, Report
    from pathgene_rt.report.writer import write_report

__all__ = ["Provenance", "Report", "write_report"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Provenance": "report",
        "Report": "report",
        "write_report": "writer",
    },
)
