"""``report.html`` of a case: both answers, and its slides with links that lead to their pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from pathgene_rt.cases.files import CaseFiles, add_page, remove_case, write_case
from pathgene_rt.cases.report import CasePrediction, CaseReport, CaseSlide, disagreements
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.report import BundleIdentity
from pathgene_rt.report.writer import write_report
from tests.report.test_page import Page
from tests.report.test_report import BAG, BUNDLE, INFO, OVERVIEW, make_report, predicted

SLIDES = ("S1 a&b", "S2")


def make_case() -> CaseReport:
    """Two slides of which one is called mutated; the mean and the pooled bag differ."""
    high, low = (
        predicted("egfr"),
        replace(predicted("egfr"), probabilities=(0.93, 0.07), called=(0,)),
    )
    mean = replace(high, logits=None, probabilities=(0.53, 0.47), called=(0,))
    predictions = (CasePrediction(slides=(high, low), mean=mean, pooled=high),)
    return CaseReport(
        case_id="P<1>",
        slides=tuple(
            CaseSlide(slide_id=name, tiles=6, encoder="openvino float32") for name in SLIDES
        ),
        predictions=predictions,
        bundle=BundleIdentity(name="lung", version="1", sha256=BUNDLE, encoder_sha256="ab" * 32),
        heads={"egfr": make_report().provenance.heads["egfr"]},
        warnings=disagreements(predictions),
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The slides' results; the second was written without a page."""
    found = []
    for name, html in zip(SLIDES, (True, False), strict=True):
        report = make_report("egfr", slide_id=name)
        folder = tmp_path / name
        write_report(report, folder, OVERVIEW, INFO, BAG, PredictOptions(html=html))
        found.append(folder)
    return found


def test_the_page_has_both_answers_and_leads_to_the_slides(
    tmp_path: Path, folders: list[Path]
) -> None:
    case = tmp_path / "cases" / "P1"
    write_case(make_case(), case, folders, CaseFiles(page="zh"))
    text = (case / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    pictures = [one for one in page.addresses if one.startswith("data:image/jpeg;base64,")]
    links = [one for one in page.addresses if one not in pictures]
    assert len(pictures) == 1
    assert [(case / unquote(link)).resolve() for link in links] == [folders[0] / "report.html"]
    assert 'data-language="zh"' in text
    assert "P<1>" not in text and "P&lt;1&gt;" in text and "S1 a&amp;b" in text
    for language, mean, pooled in (("en", "wild type", "mutated"), ("zh-Hans", "野生型", "突变型")):
        said = page.texts[language]
        assert mean in said and pooled in said
        assert any(mean in one and pooled in one for one in said), "the warning"
    assert len(page.texts["en"]) == len(page.texts["zh-Hans"])
    for shown in ("0.87", "0.47", "0.07"):
        assert shown in text


def test_figures_alone_are_shown_in_notebooks() -> None:
    page = Page(make_case().to_html())
    assert page.addresses == []
    assert "srcdoc=" in make_case()._repr_html_()


def test_a_page_that_is_missing_is_made_of_what_there_is(
    tmp_path: Path, folders: list[Path]
) -> None:
    case = tmp_path / "cases" / "P1"
    write_case(make_case(), case, folders)
    assert not (case / "report.html").exists()
    add_page(case, folders, "en")
    made = (case / "report.html").read_text(encoding="utf-8")
    assert "S2" in made
    add_page(case, folders, "zh")
    assert (case / "report.html").read_text(encoding="utf-8") == made, "there was one"
    remove_case(case)
    assert [path for path in case.iterdir() if not path.name.startswith(".")] == []
