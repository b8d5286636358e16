"""``report.json``: the report itself, the last file of a folder to be written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pathgene_rt.files import json_bytes, write_bytes
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.stored import REPORT_FILE


class JsonWriter:
    """Writes :meth:`Report.to_dict`. The audit trail has its line before the file has its name."""

    stale = (REPORT_FILE,)
    uses_overview = False

    def wanted(self, *_: object) -> bool:
        return True

    def write(self, contents: ReportContents, folder: Path) -> Written:
        data, record = json_bytes(contents.report.to_dict()), contents.record
        recorded = None if record is None else partial(record, contents.report, data)
        write_bytes(folder / REPORT_FILE, data, before_it_counts=recorded)
        return Written()
