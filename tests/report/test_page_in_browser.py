"""``report.html`` as people meet it: in a real browser, by keyboard alone, and on paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.heads.prediction import Partial
from tests.cases.test_page import make_case
from tests.report.test_page import EVIDENCE, written
from tests.report.test_report import TILES, make_report
from tests.view.browser import assert_axe_finds_nothing, chromium

pytestmark = pytest.mark.world

A4_MM = (210, 297)
MM_PER_POINT = 25.4 / 72


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind: "slide" has everything that there may be on one."""
    folder = tmp_path_factory.mktemp("pages")
    weights = np.linspace(1, 2, TILES, dtype=np.float32)
    attention = {"egfr": weights[:, None] / weights.sum(), "tp53": np.stack([weights] * 2, axis=1)}
    interval = ((0.05, 0.30), (0.70, 0.95))
    report = make_report(
        "egfr",
        "tp53",
        attention=attention,
        evidence={"egfr": EVIDENCE},
        warnings=("1.50% of the slide was never pushed and counts as background", "a new one"),
        partial=Partial(tiles_done=3, tiles_total=6, why="the budget of 3 tiles is used up"),
    )
    both = tuple(replace(one, interval=interval) for one in report.predictions)
    written(folder, replace(report, predictions=both))
    (folder / "case.html").write_text(make_case().to_html(), encoding="utf-8")
    return {"slide": folder / "report.html", "case": folder / "case.html"}


@pytest.fixture
def open_page(browser, files: dict[str, Path]) -> Iterator[Callable]:
    """Opens a page; afterwards asserts that it asked for nothing but itself."""
    opened = []

    def make(kind: str = "slide"):
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.goto(files[kind].as_uri())
        opened.append((page, files[kind].as_uri(), asked, complaints))
        return page

    yield make
    for page, address, asked, complaints in opened:
        page.close()
        assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {address}
        assert complaints == []


def press_until(page, key: str, condition: str) -> None:
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate(condition):
            return
    raise AssertionError(f"{key} never led to: {condition}")


@pytest.mark.parametrize("kind", ["slide", "case"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [1440, 400])
def test_axe_finds_nothing(open_page, kind: str, language: str, width: int) -> None:
    page = open_page(kind)
    page.set_viewport_size({"width": width, "height": 900})
    page.select_option("#language", language)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert_axe_finds_nothing(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_each_language_shows_its_own_texts_and_what_is_in_no_other(open_page) -> None:
    page = open_page()
    assert page.locator("#language option").evaluate_all(
        "(all) => all.map((one) => [one.textContent, getComputedStyle(one).display])"
    ) == [["English", "block"], ["简体中文", "block"]]
    page.select_option("#language", "zh")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    text = page.inner_text("main")
    for said in ("切片的 1.50% 从未传入，按背景处理", "a new one", "3 个图块的预算已用完"):
        assert said in text
    for other in ("never pushed", "Part of the slide only", "What the model says"):
        assert other not in text


def test_all_can_be_done_with_keys_alone(open_page) -> None:
    page = open_page()
    press_until(page, "Tab", "document.activeElement.id === 'language'")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.documentElement.dataset.language") == "zh"
    page.keyboard.press("ArrowUp")
    press_until(page, "Tab", "document.activeElement.id === 'map-shown'")
    page.keyboard.press("End")
    shown = page.locator(".layer:not([hidden])")
    assert shown.get_attribute("data-map") == "head2-map2"
    assert page.locator(".map-of:not([hidden])").inner_text() == "Attention of tp53 for “mutated”"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "opacity"
    before = shown.evaluate("(one) => Number(one.style.opacity)")
    page.keyboard.press("ArrowRight")
    after = shown.evaluate("(one) => Number(one.style.opacity)")
    assert after > before
    press_until(page, "Tab", "document.activeElement.id === 'head1-tile1'")
    page.keyboard.press("Enter")
    tile = page.evaluate(
        """(() => {
            const [mark, slide] = ["marker", "slide"].map(
                (id) => document.getElementById(id).getBoundingClientRect());
            return [(mark.x - slide.x) / slide.width, (mark.y - slide.y) / slide.height];
        })()"""
    )
    assert tile == pytest.approx([1024 / 2000, 512 / 1500], abs=0.01)
    press_until(page, "Tab", "document.activeElement.tagName === 'SUMMARY'")
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("(one) => one.open")


def test_it_prints_on_a4_in_black_and_white_with_all_that_is_said(open_page) -> None:
    page = open_page()
    document = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", document)
    sizes = {tuple(round(float(side) * MM_PER_POINT) for side in box) for box in boxes}
    assert sizes == {A4_MM}
    assert 1 <= len(re.findall(rb"/Type /Page\b", document)) <= 4
    page.emulate_media(media="print")
    hidden = ("#language", "#map-shown", "#opacity")
    assert not any(page.locator(one).is_visible() for one in hidden)
    coloured = page.evaluate(
        """[...document.querySelectorAll("main *:not(svg *)")].filter((one) => {
            if (one.closest("svg, img, .legend") || one.checkVisibility() === false) return false;
            const style = getComputedStyle(one);
            return [style.color, style.backgroundColor, style.borderTopColor].some((colour) => {
                const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
                return a > 0 && Math.max(r, g, b) - Math.min(r, g, b) > 16;
            });
        }).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert coloured == []
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    maps = page.locator(".map-of:visible").all_inner_texts()
    assert maps == ["Attention of egfr", "Attention of tp53 for “mutated”"]
    ids = page.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("details dd").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("details dd").first.is_visible()
    assert page.locator("figure").count() == 1
