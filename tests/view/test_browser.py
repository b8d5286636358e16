"""The page in a real browser."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathgene_rt.cli.scan_view import ScanView
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.pages.texts import Texts
from pathgene_rt.scan.progress import ScanProgress
from pathgene_rt.scan.stage import Stage
from pathgene_rt.slides import open_slide
from pathgene_rt.view.live import LiveView
from pathgene_rt.view.server import ViewOptions
from tests.support.view_results import (
    SIZE_PX,
    SPAN_PX,
    ViewResults,
    change_report,
    write_view_case,
)
from tests.view.browser import Watched, assert_axe_finds_nothing, chromium, viewer_process

pytestmark = pytest.mark.world

SLIDE = "#/case-1"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(view_results: ViewResults) -> Iterator[str]:
    with viewer_process(
        view_results.predictions, "--slides", str(view_results.slides), "--language", "en"
    ) as address:
        yield address


@pytest.fixture
def open_page(browser) -> Iterator[Callable[[str], Watched]]:
    """Opens pages; when the test is over, asserts that none asked anybody else for anything."""
    opened = []

    def make(address: str) -> Watched:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        opened.append(Watched.on(page, address))
        return opened[-1]

    yield make
    for one in opened:
        one.page.close()
        one.assert_private()


@pytest.fixture
def view(open_page, address: str) -> Watched:
    return open_page(address)


def rows(page) -> list[str]:
    return page.locator("tbody th").all_inner_texts()


def test_results_are_searched_filtered_and_ordered(view: Watched) -> None:
    view.open()
    page = view.page
    assert rows(page) == ["case-1", "case-2"]
    # The number beside a call is the probability of the class that is called.
    assert "TP53 wild type 0.71" in page.locator("tbody tr").first.inner_text().replace("\n", " ")
    page.get_by_role("button", name="Slide").click()
    assert rows(page) == ["case-2", "case-1"]
    page.get_by_role("searchbox").fill("CASE-2 lung")
    assert rows(page) == ["case-2"]
    page.get_by_role("searchbox").fill("")
    page.get_by_label("With warnings only").check()
    assert rows(page) == ["case-2"]
    page.get_by_label("With warnings only").uncheck()
    page.get_by_label("Filter by quality").select_option("sound")
    assert rows(page) == ["case-1"]
    page.get_by_label("Filter by quality").select_option("")
    page.get_by_label("Filter by call").select_option(label="TP53: wild type")
    assert rows(page) == ["case-2", "case-1"]
    page.get_by_role("link", name="case-1").click()
    view.ready()
    assert page.get_by_role("heading", level=1).inner_text() == "case-1"


def test_the_overlay_shows_the_head_chosen_at_the_opacity_chosen(view: Watched) -> None:
    view.open(SLIDE)
    page = view.page
    egfr = view.pixels("overlay")
    assert (egfr[..., 3] > 0).all()
    page.locator("[data-head=tp53]").click()
    view.still()
    tp53 = view.pixels("overlay")
    assert np.abs(egfr[..., :3].astype(int) - tp53[..., :3]).max() > 20
    page.get_by_label("Opacity of attention").fill("100")
    view.still()
    assert (view.pixels("overlay")[..., 3] == 255).all()
    page.get_by_label("Opacity of attention").fill("0")
    view.still()
    assert (view.pixels("overlay")[..., 3] == 0).all()
    page.locator("[data-head=tmb]").click()
    assert page.locator(".legend").inner_text() == "This head gives no attention"
    view.until("location.hash.includes('head=tmb')")


def test_raw_weights_and_ranks_are_told_apart(view: Watched) -> None:
    view.open(SLIDE)
    page = view.page
    ranks = view.pixels("overlay")
    assert "percentile rank" in page.locator(".legend").inner_text()
    page.get_by_label("Colour shows").select_option("weight")
    view.still()
    assert "raw weight" in page.locator(".legend").inner_text()
    assert np.abs(ranks[..., :3].astype(int) - view.pixels("overlay")[..., :3]).max() > 20
    page.locator(".stage").hover(position={"x": 500, "y": 400})
    assert page.locator(".readout").inner_text().startswith("Rank ")


def test_attention_for_each_class_is_shown_on_its_own(view: Watched) -> None:
    view.open(f"{SLIDE}?head=tp53")
    page = view.page
    called = view.pixels("overlay")
    choice = page.get_by_label("Attention for")
    assert choice.input_value() == "wild type"
    choice.select_option("mutated")
    view.still()
    other = view.pixels("overlay")
    assert np.abs(called[..., :3].astype(int) - other[..., :3]).max() > 20
    assert "tp53 for “mutated”" in page.locator(".legend").inner_text()
    view.until("location.hash.includes('class=mutated')")
    page.locator(".stage").first.click()
    page.keyboard.press("a")
    view.still()
    np.testing.assert_array_equal(view.pixels("overlay"), called)
    page.locator("[data-head=egfr]").click()
    assert choice.count() == 0, "attention of one branch is for no class"
    view.open(f"{SLIDE}?head=tp53&class=mutated")
    view.page.reload()
    view.ready()
    assert choice.input_value() == "mutated"


def test_cases_are_listed_with_their_slides(
    open_page, view_results: ViewResults, tmp_path: Path
) -> None:
    folders = replace(view_results, predictions=tmp_path / "predictions")
    shutil.copytree(view_results.predictions, folders.predictions)
    write_view_case(folders, "P1")
    token = ("--token", "a-token-of-a-test")
    with viewer_process(folders.predictions, "--language", "en", *token) as told:
        address = told.partition("?")[0]
        view = open_page(address)
        view.expected += ["Failed to load resource"]  # there are no slides
        view.page.goto(told)
        view.open()
        row = view.page.locator("tbody tr", has=view.page.locator(".chip", has_text="Case"))
        assert "mean of the slides: wild type" in row.inner_text()
        assert_axe_finds_nothing(view.page)
        with view.page.expect_popup() as opened:
            row.get_by_role("link", name="P1").click()
        case = opened.value
        case.get_by_role("link", name="case-2").click()
        case.wait_for_selector("h1:has-text('case-2')")
        assert case.url == f"{address}pages/case-2/report.html"
        row.get_by_role("link", name="case-1").click()
        view.page.wait_for_selector("h1:has-text('case-1')")
        view.page.close()


def test_a_click_on_a_tile_arrives_at_its_pixels(view: Watched, view_results: ViewResults) -> None:
    view.open(SLIDE)
    page = view.page
    page.get_by_label("Opacity of attention").fill("0")
    for number in (0, 3):
        button = page.locator("button.tile[data-kind=top]").nth(number)
        left, top = (int(value) for value in button.get_attribute("data-place").split(","))
        button.click()
        view.still()
        x, y, scale, _ = view.place()
        assert (x, y) == pytest.approx((left + SPAN_PX / 2, top + SPAN_PX / 2), abs=1)
        assert button.get_attribute("aria-current") == "true"
        # 128 page pixels in the middle, against the same square of the slide.
        shown = view.pixels(side=128)[..., :3]
        side = round(128 * scale)
        with open_slide(view_results.slides / "case-1.svs") as slide:
            corner = (round(x - side / 2), round(y - side / 2))
            square = Image.fromarray(slide.read(corner, 0, (side, side)))
        expected = np.asarray(square.resize((32, 32), Image.Resampling.BOX)).astype(int)
        seen = np.asarray(Image.fromarray(shown).resize((32, 32), Image.Resampling.BOX))
        assert np.abs(seen - expected).mean() < 6
        # The mark is around the tile: white and black where its edge is.
        assert view.pixels("overlay", side=2)[..., 3].max() == 0


def test_flawed_tiles_are_a_layer(view: Watched) -> None:
    view.open(SLIDE)
    assert view.page.get_by_label("Flawed tiles").is_disabled()
    view.open("#/case-2")
    view.page.get_by_label("Opacity of attention").fill("0")
    with view.page.expect_response("**/flaws"):
        view.page.get_by_label("Flawed tiles").check()
    view.until(
        "((c) => c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.some((value, at) => at % 4 === 3 && value > 60))"
        "(document.querySelector('.overlay'))"
    )
    view.page.get_by_label("Flawed tiles").uncheck()
    view.still()
    assert view.pixels("overlay", side=128).max() == 0


def test_outlines_and_the_tissue_mask_are_layers(view: Watched) -> None:
    view.open(SLIDE)
    page = view.page
    page.get_by_label("Opacity of attention").fill("0")
    page.get_by_label("Tile outlines").check()
    view.still()
    lines = view.pixels("overlay", side=128)[..., 3] > 0
    assert 0 < lines.mean() < 0.2
    page.get_by_label("Tile outlines").uncheck()
    with page.expect_response("**/tissue?*"):
        page.get_by_label("Tissue mask").check()
    view.until(
        "((c) => c.getContext('2d').getImageData(c.width / 2, 0, 4, c.height)"
        ".data.some((value, at) => at % 4 === 3 && value > 100))"
        "(document.querySelector('.overlay'))"
    )
    page.get_by_label("Tissue mask").uncheck()
    view.still()
    assert view.pixels("overlay", side=128).max() == 0


def test_two_views_side_by_side_move_together_while_they_are_linked(view: Watched) -> None:
    view.open(SLIDE)
    page = view.page
    page.get_by_role("button", name="Side by side").click()
    view.ready(2)
    assert view.place(0) == pytest.approx(view.place(1), abs=0.5)
    assert np.abs(view.pixels("overlay", 0).astype(int) - view.pixels("overlay", 1)).max() > 20
    page.locator(".stage").nth(0).click()
    for key in ("+", "ArrowRight", "r"):
        page.keyboard.press(key)
    view.still()
    moved = view.place(0)
    assert moved[3] == 90
    assert view.place(1) == pytest.approx(moved, abs=0.5)
    page.get_by_label("Linked").uncheck()
    page.locator(".stage").nth(0).click()
    page.keyboard.press("-")
    view.still()
    assert view.place(0)[2] > 1.3 * view.place(1)[2]
    page.get_by_label("Slide of the second view").select_option("case-2")
    view.until("document.querySelector('.choose-slide')?.value === 'case-2'")
    view.ready(2)
    assert "with=case-2" in page.evaluate(
        "new Promise((d) => setTimeout(() => d(location.hash), 400))"
    )
    page.get_by_role("button", name="Side by side").click()
    assert page.locator(".stage").count() == 1


def test_everything_is_there_in_chinese(view: Watched) -> None:
    view.open(SLIDE)
    page = view.page
    page.get_by_label("Language").select_option("zh")
    view.ready()
    chinese = Texts("zh")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    text = page.inner_text("body")
    for key in (
        "view.answers",
        "view.display",
        "view.compare",
        "common.quality",
        "view.gallery_top",
    ):
        assert chinese(key) in text
    assert chinese.word("mutated") in text
    assert chinese("messages.research_use") in text and "Not a diagnosis" not in text
    english = Texts("en")
    for key in ("view.answers", "view.gallery_top", "view.back", "common.attention_is"):
        assert english(key) not in text
    page.goto(view.address)
    page.wait_for_selector("tbody tr")
    assert chinese("view.column_made") in page.inner_text("thead")


def test_all_can_be_done_with_keys_alone(view: Watched) -> None:
    view.open()
    page = view.page
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "case-1":
            break
    page.keyboard.press("Enter")
    view.ready()
    assert page.evaluate("document.activeElement.className") == "openseadragon-canvas"
    start = view.place()
    page.keyboard.press("+")
    view.still()
    assert view.place()[2] < start[2] / 1.3
    page.keyboard.press("ArrowRight")
    view.still()
    assert view.place()[0] > start[0] + 10
    page.keyboard.press("0")
    view.still()
    assert view.place() == pytest.approx(start, rel=1e-3)
    page.keyboard.press("h")
    assert page.locator("[data-head=tp53]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("]")
    assert page.get_by_label("Opacity of attention").input_value() == "60"
    page.keyboard.press("n")
    view.still()
    first = page.locator("button.tile").first
    assert first.get_attribute("aria-current") == "true"
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    keys = page.get_by_role("dialog").locator("kbd").all_inner_texts()
    assert {"?", "+", "n", "R", "← → ↑ ↓"} <= set(keys)
    page.keyboard.press("Escape")
    view.until("!document.querySelector('dialog')")
    assert page.evaluate("document.activeElement.className") == "openseadragon-canvas"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") != "openseadragon-canvas"


def test_a_link_leads_to_slide_place_and_head(view: Watched) -> None:
    view.open(f"{SLIDE}?head=tp53&value=weight&opacity=30&x=1000&y=700&scale=1.5&rotation=90")
    view.page.wait_for_timeout(400)
    assert view.place() == pytest.approx((1000, 700, 1.5, 90), abs=0.1)
    assert view.page.locator("[data-head=tp53]").get_attribute("aria-pressed") == "true"
    assert view.page.get_by_label("Opacity of attention").input_value() == "30"
    assert "raw weight" in view.page.locator(".legend").inner_text()
    link = view.page.evaluate("location.hash")
    assert "head=tp53" in link and "x=1000" in link and "rotation=90" in link


def test_the_view_is_exported_as_a_picture(view: Watched) -> None:
    view.open(SLIDE)
    with view.page.expect_download() as download:
        view.page.get_by_role("button", name="Export view").click()
    assert download.value.suggested_filename == "case-1_egfr.png"
    picture = Image.open(download.value.path()).convert("RGB")
    shown = view.evaluate("return [v.drawer.canvas.width, v.drawer.canvas.height]")
    assert picture.width == shown[0] and picture.height > shown[1]
    across, down = ((side + 1) // 2 for side in shown)  # as the browser rounds
    middle = np.asarray(picture)[down, across].astype(int)
    slide, overlay = (
        view.pixels(layer, side=2)[1, 1].astype(float) for layer in ("slide", "overlay")
    )
    share = overlay[3] / 255
    assert np.abs(middle - (slide[:3] * (1 - share) + overlay[:3] * share)).max() < 8
    foot = np.asarray(picture)[shown[1] :]
    assert (foot < 90).all(axis=-1).any()


@pytest.mark.parametrize("what", ["list", "slide", "two", "help", "chinese"])
def test_axe_finds_nothing(view: Watched, what: str) -> None:
    view.open("" if what == "list" else SLIDE)
    page = view.page
    if what == "two":
        page.get_by_role("button", name="Side by side").click()
        view.ready(2)
    if what == "help":
        page.get_by_role("button", name="Keys").click()
    if what == "chinese":
        page.get_by_label("Language").select_option("zh")
        view.ready()
    assert_axe_finds_nothing(page)


def test_results_that_come_later_appear_by_themselves(
    open_page, view_results: ViewResults, tmp_path: Path
) -> None:
    folder = tmp_path / "predictions"
    shutil.copytree(view_results.predictions / "case-1", folder / "case-1")
    with viewer_process(folder, "--language", "en") as address:
        view = open_page(address)
        view.open()
        assert rows(view.page) == ["case-1"]
        shutil.copytree(view_results.predictions / "case-2", tmp_path / "case-2")
        report = (tmp_path / "case-2" / "report.json").rename(tmp_path / "report.json")
        (tmp_path / "case-2").rename(folder / "case-2")
        view.page.wait_for_selector("text=being written")
        report.rename(folder / "case-2" / "report.json")
        view.page.wait_for_selector("tbody th:has-text('case-2')")
        change_report(folder / "case-1", warnings=["something"])
        view.page.wait_for_selector("tr:has-text('case-1') .chip.warning")
        change_report(folder / "case-1", schema_version=77)
        view.page.wait_for_selector("tr:has-text('case-1') .chip.danger")
        (folder / "case-2" / "report.json").unlink()
        view.page.wait_for_selector("tr:has-text('case-2'):has-text('being written')")
        view.expected += ["Failed to load resource"]
        for name, said in (("case-1", "has schema version 77"), ("case-2", "there is no report")):
            view.page.goto(f"{address}#/{name}")
            view.page.wait_for_selector(f".notice:has-text('{said}')")
        view.page.close()


def test_without_slides_the_reports_own_pictures_are_shown(
    open_page, view_results: ViewResults
) -> None:
    with viewer_process(view_results.predictions, "--language", "en") as address:
        view = open_page(address)
        view.expected += ["Failed to load resource"]
        view.page.goto(f"{address}{SLIDE}")
        view.page.wait_for_selector("text=is not in the folders given with --slides")
        view.until(
            "OpenSeadragon.getViewer(document.querySelector('.stage')).world.getItemCount() === 1"
        )
        wide = view.evaluate("return v.world.getItemAt(0).getContentSize().x")
        with Image.open(view_results.predictions / "case-1" / "heatmap_egfr.png") as picture:
            assert wide == picture.width
        view.page.locator("[data-head=tp53]").click()
        view.until(
            "performance.getEntriesByType('resource')"
            ".some((one) => one.name.endsWith('/picture/1'))"
        )
        view.page.close()


def test_a_slide_that_changes_while_it_is_open_is_said_to_have(
    open_page, view_results: ViewResults, tmp_path: Path
) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(view_results.slides, slides)
    with viewer_process(
        view_results.predictions, "--slides", str(slides), "--language", "en"
    ) as address:
        view = open_page(address)
        view.open(SLIDE)
        view.expected += ["Failed to load resource", "failed to load"]
        shutil.copyfile(slides / "case-2.svs", slides / "case-1.svs")
        view.page.locator(".stage").first.click()
        for _ in range(4):
            view.page.keyboard.press("+")
        view.page.wait_for_selector("text=has changed since this page was opened")
        view.page.close()


def test_a_whole_slide_fits_a_small_screen(view: Watched) -> None:
    view.page.set_viewport_size({"width": 800, "height": 1000})
    view.open(SLIDE)
    wide = view.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 800
    x, y, _, _ = view.place()
    assert (x, y) == pytest.approx((SIZE_PX[0] / 2, SIZE_PX[1] / 2), abs=2)
    assert Image.open(io.BytesIO(view.page.screenshot())).width == 800


def test_a_scan_is_followed_while_it_goes_on(
    open_page, view_results: ViewResults, tmp_path: Path
) -> None:
    stage = Stage(rate=1.0)

    def standing(pushes: int, interval: tuple[float, float]) -> ScanProgress:
        low, high = interval
        said = Prediction(
            "egfr",
            "mutation",
            "EGFR",
            ("wild type", "mutated"),
            (0.0, 0.0),
            (0.3, 0.7),
            0.5,
            (1,),
            True,
            ((1 - high, 1 - low), (low, high)),
        )
        return ScanProgress(
            pushes=pushes,
            busy=0,
            whole=pushes,
            encoded=pushes,
            waiting=2,
            deferred=1,
            partial=0,
            partial_bytes=0,
            interim=(said,),
        )

    with (
        open_slide(view_results.slides / "case-1.svs") as slide,
        LiveView(tmp_path, [view_results.slides], ViewOptions(port=0, language="en")) as live,
    ):
        scan = ScanView(live, slide, stage, tmp_path)
        places = stage.places(slide.info.size_px)
        scan.show(3.0, standing(5, (0.2, 0.9)))
        view = open_page(live.address)
        view.page.goto(f"{live.address}#/scan")
        scale = view.page.get_by_role("img", name="probability of mutated, 0.70")
        assert "95 % interval 0.20" in scale.get_attribute("aria-label")
        assert f"5 / {len(places)}" in view.page.inner_text("aside")

        def scanned() -> float:
            """The share of the picture that is not the grey of what has not come yet."""
            return view.page.evaluate(
                "((c) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                " let grey = 0; for (let at = 0; at < d.length; at += 4)"
                " grey += d[at] === 0xd3 && d[at + 1] === 0xd7 && d[at + 2] === 0xde;"
                " return 1 - 4 * grey / d.length })(document.querySelector('canvas'))"
            )

        few = scanned()
        assert few == pytest.approx(5 / len(places), abs=0.1)
        scan.show(20.0, standing(20, (0.6, 0.8)))
        view.page.wait_for_selector("[aria-label*='95 % interval 0.60']")
        assert scanned() > few + 0.2
        shutil.copytree(view_results.predictions / "case-1", tmp_path / "case-1")
        view.page.goto(f"{live.address}#/")
        view.page.wait_for_selector("tbody th:has-text('case-1')")
        view.page.close()
