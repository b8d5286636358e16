"""A page as it prints, for archives that take no HTML. WeasyPrint makes it."""

from __future__ import annotations

from importlib.util import find_spec

from pathgene_rt.errors import MissingExtraError


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
