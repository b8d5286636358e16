"""Puts the DICOM objects of a report into its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.files import atomic_path
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.head_files import head_file_names
from pathgene_rt.report.page_files import PDF_FILE
from pathgene_rt.report.report import Report

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

REPORT_OBJECT, TILES_OBJECT, PDF_OBJECT = "report.dcm", "top_tiles.dcm", "report_pdf.dcm"
MAP_PREFIX = "attention_"


class DicomWriter:
    """Writes the answers as a structured report; of heads with attention a map each, and their
    most attended tiles, where it is known which picture these lie over; and the PDF, if there is
    one."""

    stale = (REPORT_OBJECT, TILES_OBJECT, PDF_OBJECT, f"{MAP_PREFIX}*.dcm")
    uses_overview = False

    def wanted(self, report: Report, options: PredictOptions) -> bool:  # noqa: ARG002
        return options.dicom

    def write(self, contents: ReportContents, folder: Path) -> Written:
        files: dict[str, str] = {}
        warnings: list[str] = []
        for what, name, made in _objects(contents, folder, warnings):
            with atomic_path(folder / name) as temporary:
                made.save_as(temporary, enforce_file_format=True)
            files[what] = name
        return Written(files=files, warnings=tuple(warnings))


def _objects(
    contents: ReportContents, folder: Path, warnings: list[str]
) -> Iterator[tuple[str, str, Dataset]]:
    """What each is, its file's name, and itself; ``warnings`` gets what is left out, and why."""
    from pathgene_rt.report.dicom.attention_map import attention_map, on_one_grid
    from pathgene_rt.report.dicom.identity import Author
    from pathgene_rt.report.dicom.pdf_object import pdf_object
    from pathgene_rt.report.dicom.structured_report import structured_report
    from pathgene_rt.report.dicom.top_tiles import top_tiles

    report, bag, source = contents.report, contents.bag, contents.dicom
    assert source is not None  # whoever wants objects has found whose they are
    author = Author.of(report)
    if report.predictions:
        yield "dicom report", REPORT_OBJECT, structured_report(report, source)
    else:
        warnings.append("no DICOM report: the bundle has no head, so there is no answer to report")
    if contents.shown and not source.has_image:
        warnings.append(
            "no DICOM maps and annotations: the DICOM context names no image that they lie over "
            "(image, in docs/dicom.md)"
        )
    elif contents.shown:
        yield "dicom top tiles", TILES_OBJECT, top_tiles(author, bag, contents.shown, source)
        if on_one_grid(bag):
            heads = [one.prediction.head for one in contents.shown]
            names = head_file_names(heads, MAP_PREFIX, ".dcm")
            for number, (one, name) in enumerate(zip(contents.shown, names, strict=True), start=1):
                made = attention_map(author, bag, one, source, number)
                yield f"dicom attention {one.prediction.head}", name, made
        else:
            warnings.append("no DICOM maps of attention: the tiles of --coords lie on no one grid")
    if report.files.get("pdf") == PDF_FILE:
        pdf = (folder / PDF_FILE).read_bytes()
        yield "dicom pdf", PDF_OBJECT, pdf_object(author, pdf, source)
