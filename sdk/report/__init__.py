"""What is said and drawn of a slide.

``assemble`` makes the ``report`` of files and scans alike; ``writer`` lists what puts it into a
folder, each kind of file a writer of its own (``contents`` is what they are given): ``json_file``,
``features_file``, ``heatmap_files`` (drawn by ``heatmap``), ``geojson`` and ``page_files``, of what
``attention`` ranks and ``evidence`` finds. ``stored`` reads a report back. Imports what a report is
about: heads, extraction, and all below them.
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
