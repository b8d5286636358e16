"""``report.pdf``: the page as it prints, for archives that take no HTML. WeasyPrint makes it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pathgene_rt.errors import MissingExtraError
from pathgene_rt.files import write_bytes
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.html_file import slide_page
from pathgene_rt.report.report import Report

PDF_FILE = "report.pdf"


class PdfWriter:
    """Writes the document where it was asked for."""

    stale = (PDF_FILE,)
    uses_overview = True

    def wanted(self, report: Report, options: PredictOptions) -> bool:  # noqa: ARG002 - asked for
        return options.pdf

    def write(self, contents: ReportContents, folder: Path) -> Written:
        write_bytes(folder / PDF_FILE, pdf_of(slide_page(contents)))
        return Written(files={"pdf": PDF_FILE})


def require_pdf() -> None:
    """Raise :class:`MissingExtraError` if no PDF can be made: known before a slide is read."""
    if find_spec("weasyprint") is None:
        raise MissingExtraError("a PDF needs WeasyPrint; run pip install 'pathgene-rt[pdf]'")


def pdf_of(page: str) -> bytes:
    """``page`` as PDF; only pictures inside it are read, no file and no connection is opened.

    Raises MissingExtraError where a library that WeasyPrint draws with is not installed.
    """
    try:
        import weasyprint
        from weasyprint.urls import URLFetcher
    except OSError as error:
        raise MissingExtraError(
            f"WeasyPrint lacks a library of the system ({error}); install Pango"
        ) from error
    inside = URLFetcher(allowed_protocols=("data",))
    document: bytes = weasyprint.HTML(string=page, url_fetcher=inside).write_pdf()
    return document
