"""``report.json``: the report itself, the last file of a folder to be written."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.files import write_json
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.stored import REPORT_FILE


class JsonWriter:
    """Writes :meth:`Report.to_dict`."""

    stale = (REPORT_FILE,)
    uses_overview = False

    def wanted(self, *_: object) -> bool:
        return True

    def write(self, contents: ReportContents, folder: Path) -> Written:
        write_json(folder / REPORT_FILE, contents.report.to_dict())
        return Written()
