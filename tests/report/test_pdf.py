"""``report.pdf``: the page as it prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from pathgene_rt.errors import MissingExtraError
from pathgene_rt.options import PredictOptions
from pathgene_rt.report import page_files
from pathgene_rt.report.pdf import pdf_of, require_pdf
from pathgene_rt.report.writer import write_report
from tests.report.test_page import EVIDENCE, grey_tiles
from tests.report.test_report import BAG, INFO, OVERVIEW, make_report


@pytest.fixture(scope="module")
def drawing() -> None:
    """WeasyPrint loads Pango when it is imported."""
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"WeasyPrint cannot be used here: {error}")


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_document_is_the_page(tmp_path: Path, language: str) -> None:
    report = write_report(
        make_report(evidence={"egfr": EVIDENCE}),
        tmp_path,
        OVERVIEW,
        INFO,
        BAG,
        PredictOptions(html=False, pdf=True, language=language),  # type: ignore[arg-type]
        read_tiles=grey_tiles,
    )
    assert report.files["pdf"] == "report.pdf"
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    # The slide, the maps (both heads' are equal here) with their transparency, two tiles.
    assert len(re.findall(rb"/Subtype ?/Image", data)) == 5


@pytest.mark.usefixtures("drawing")
def test_page_and_document_are_made_of_pictures_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        page_files,
        "slide_picture",
        lambda overview, real=page_files.slide_picture: drawn.append(1) or real(overview),
    )
    report = write_report(
        make_report(), tmp_path, OVERVIEW, INFO, BAG, PredictOptions(html=True, pdf=True)
    )
    assert {"html", "pdf"} <= set(report.files)
    assert drawn == [1]


@pytest.mark.usefixtures("drawing")
def test_nothing_outside_the_page_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    for address in ((tmp_path / "secret.png").as_uri(), "http://127.0.0.1:9/x.png"):
        data = pdf_of(f'<img src="{address}"><p>text</p>')
        assert not re.search(rb"/Subtype ?/Image", data)


def test_without_the_extra_it_says_so_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setattr("pathgene_rt.report.pdf.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[pdf\]"):
        require_pdf()
