"""``report.html``: what it says, that it needs nothing else, and is whole in both languages."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathgene_rt.bundle.zones import CutOff, DecisionZones
from pathgene_rt.errors import UsageError
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Partial
from pathgene_rt.options import PredictOptions
from pathgene_rt.pages.render import probability
from pathgene_rt.report.evidence import Faithfulness, HeadEvidence, Support, TileEvidence
from pathgene_rt.report.heatmap import colour_table
from pathgene_rt.report.page_files import HTML_FILE
from pathgene_rt.report.page_pictures import attention_layers
from pathgene_rt.report.writer import write_report
from tests.report.test_report import BAG, INFO, OVERVIEW, TILES, make_report, predicted

EVIDENCE = HeadEvidence(
    shown_class=1,
    tried=TILES,
    tiles_for=(TileEvidence(row=5, xy=(1024, 512), alone=0.91),),
    tiles_against=(TileEvidence(row=2, xy=(1024, 0), alone=0.12),),
    faithfulness=Faithfulness(
        removed=3,
        whole=Support(probability=0.87, log_odds=1.9),
        without_top=Support(probability=0.41, log_odds=-0.4),
        without_random=Support(probability=0.86, log_odds=1.8),
    ),
)


class Page(HTMLParser):
    """The addresses a page names, its ids and the texts that there are by language."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.lang: list[str | None] = []
        self.texts: dict[str | None, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if given.get(name)]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "span":
            translated = (given.get("class") or "").startswith("in-")
            self.lang.append(given.get("lang") if translated else None)

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self.lang.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.lang[-1] if self.lang else None, []).append(data.strip())


def grey_tiles(rows: np.ndarray) -> np.ndarray:
    """As bright as their row says."""
    return np.broadcast_to(
        (20 * rows).astype(np.uint8)[:, None, None, None], (len(rows), 64, 64, 3)
    )


def written(folder: Path, report=None, **options) -> str:
    report = report or make_report(evidence={"egfr": EVIDENCE})
    write_report(
        report,
        folder,
        OVERVIEW,
        INFO,
        BAG,
        PredictOptions(**options),
        read_tiles=grey_tiles,
    )
    return (folder / HTML_FILE).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = Page(written(tmp_path))
    assert page.addresses
    assert all(re.match(r"data:image/(png|jpeg);base64,|#", address) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_it_says_what_the_report_says_in_both_languages(tmp_path: Path) -> None:
    page = Page(written(tmp_path))
    english, chinese = (" ".join(page.texts[lang]) for lang in ("en", "zh-Hans"))
    assert len(page.texts["en"]) == len(page.texts["zh-Hans"])
    for said in ("mutated", "0.87", "0.41", "0.86", "alone: 0.91", "alone: 0.12"):
        assert said in english
    assert "The attended tiles matter to this answer." in english
    for said in ("突变型", "0.87", "0.41", "单独：0.91"):
        assert said in chinese
    assert "被关注的图块对该判读确有影响。" in chinese
    assert not re.search(r"\{\w+\}", english + chinese)


def test_tiles_are_those_of_the_evidence(tmp_path: Path) -> None:
    text = written(tmp_path)
    tiles = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="x (\d+), y (\d+)"', text)
    assert [(x, y) for _, x, y in tiles] == [("1024", "512"), ("1024", "0")]
    for (data, _, _), row in zip(tiles, (5, 2), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert abs(int(pixels[32, 32, 0]) - 20 * row) <= 2


def test_a_layer_has_the_colour_of_each_tiles_rank() -> None:
    attention = np.arange(TILES, dtype=np.float32)[::-1, None]
    (layer,) = attention_layers(BAG, predicted("egfr"), attention)
    data = layer.picture.partition(",")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    assert picture.shape == (2, 3, 4)
    ranks = (np.arange(TILES)[::-1] + 0.5) / TILES * 100
    expected = colour_table()[1 + np.rint(ranks * 2.54).astype(int)]
    assert (picture[..., 3] == 255).all()
    np.testing.assert_array_equal(picture[..., :3].reshape(-1, 3), expected)
    per_class = attention_layers(BAG, predicted("egfr"), np.hstack([attention, attention]))
    assert [one.about for one in per_class] == ["wild type", "mutated"]


def test_where_there_is_no_tile_a_layer_is_transparent() -> None:
    bag = replace(BAG, xy=BAG.xy[[0, 5]], features=BAG.features[[0, 5]])
    (layer,) = attention_layers(bag, predicted("egfr"), np.array([[0.2], [0.8]], np.float32))
    data = layer.picture.partition(",")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    assert (picture[..., 3] > 0).tolist() == [[True, False, False], [False, False, True]]


def test_the_page_of_a_large_slide_is_under_5_mb(tmp_path: Path) -> None:
    """200,000 tiles, ten maps of attention that do not compress, and a picture of noise."""
    side, classes = 447, ("a", "b", "c", "d", "e")
    rng = np.random.default_rng(1)
    place = np.arange(side * side)
    xy = np.stack([place % side, place // side], axis=1).astype(np.int32) * 512
    bag = replace(BAG, xy=xy, features=np.broadcast_to(np.float32(1), (len(xy), 4)))
    attention = {name: rng.random((len(xy), 5), dtype=np.float32) for name in ("one", "two")}
    predictions = tuple(predicted(name, classes) for name in attention)
    report = make_report("one", "two", attention=attention, predictions=predictions)
    noise = rng.integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    info = replace(INFO, size_px=(side * 512, side * 512))
    options = PredictOptions(heatmaps=False, geojson=False)
    write_report(report, tmp_path, noise, info, bag, options)
    page = (tmp_path / HTML_FILE).read_text(encoding="utf-8")
    assert page.count('class="layer"') == 10
    assert len(page) < 5_000_000


def test_warnings_and_what_is_partial_stand_before_the_results(tmp_path: Path) -> None:
    partial = Partial(tiles_done=3, tiles_total=6, why="the budget of 3 tiles is used up")
    interval = ((0.05, 0.30), (0.70, 0.95))
    predictions = (replace(predicted("egfr"), interval=interval),)
    report = make_report("egfr", warnings=("<b>blurred</b>",), partial=partial)
    text = written(tmp_path, replace(report, predictions=predictions))
    results = text.index('id="results"')
    assert text.index("&lt;b&gt;blurred&lt;/b&gt;") < results
    assert text.index("the budget of 3 tiles is used up") < results
    assert "between 0.70 and 0.95" in text
    assert "<b>blurred" not in text


def test_warnings_are_in_both_languages_where_they_are_known(tmp_path: Path) -> None:
    known = "1.50% of the slide was never pushed and counts as background"
    text = written(tmp_path, make_report("egfr", warnings=(known, "a new one")))
    page = Page(text)
    assert known in page.texts["en"]
    assert "切片的 1.50% 从未传入，按背景处理" in page.texts["zh-Hans"]
    assert '<li><span lang="en">a new one</span></li>' in text
    rules = re.findall(r"\[data-language=\w+\] (\S+?)[, ]", text)
    assert rules == [".in-zh", ".in-en"], "nothing else is hidden in one language"


def test_a_map_that_explains_nothing_says_so(tmp_path: Path) -> None:
    same = Support(probability=0.87, log_odds=1.9)
    faithful = Faithfulness(removed=3, whole=same, without_top=same, without_random=same)
    evidence = {"egfr": replace(EVIDENCE, faithfulness=faithful)}
    text = written(tmp_path, make_report(evidence=evidence))
    assert "The attention map does not explain this answer" in text
    assert "The attended tiles matter" not in text


def test_without_pictures_there_are_figures(tmp_path: Path) -> None:
    report = make_report(evidence={"egfr": EVIDENCE})
    page = Page(report.to_html("zh"))
    assert not page.addresses
    assert 'data-language="zh"' in report.to_html("zh")
    assert "srcdoc=" in report._repr_html_()
    write_report(report, tmp_path, None, INFO, BAG, PredictOptions())
    assert (tmp_path / HTML_FILE).is_file()


def test_language_and_whether_it_is_written_are_options(tmp_path: Path) -> None:
    assert '<html lang="zh-Hans" data-language="zh">' in written(tmp_path / "zh", language="zh")
    report = write_report(
        make_report(), tmp_path / "none", OVERVIEW, INFO, BAG, PredictOptions(html=False)
    )
    assert not (tmp_path / "none" / HTML_FILE).exists()
    assert "html" not in report.files
    with pytest.raises(UsageError, match="language 'fr' is unknown; choose en or zh"):
        PredictOptions(language="fr")  # type: ignore[arg-type]


def test_several_classes_and_names_with_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    classes = ("<script>a</script>", "19del", "L858R")
    report = replace(make_report("exon"), predictions=(predicted("exon", classes),))
    text = written(tmp_path, replace(report, attention={}))
    assert "<script>a" not in text
    assert "&lt;script&gt;a&lt;/script&gt;" in text
    assert "L858R" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "<\u00a00.01"),
        (0.004, "<\u00a00.01"),
        (0.006, "0.01"),
        (0.5, "0.50"),
        (0.996, ">\u00a00.99"),
        (1.0, ">\u00a00.99"),
    ],
)
def test_no_probability_is_shown_as_certain(value: float, shown: str) -> None:
    assert probability(value) == shown


def test_zones_show_their_cut_offs_and_what_is_withheld_shows_no_probability() -> None:
    low = CutOff(
        value=0.2, measure="sensitivity", at_least=0.95, confidence=0.95, cases=80, errors=1
    )
    zones = DecisionZones(rule_out=low, rule_in=replace(low, value=0.9, measure="specificity"))
    between = replace(predicted("egfr"), zones=zones)
    reason = Reason(code="between_cut_offs", figures={"low": 0.25, "high": 0.5})
    report = make_report("egfr", evidence={"egfr": EVIDENCE})
    text = replace(report, predictions=(between,)).to_html()
    said = " ".join(Page(text).texts["en"])
    assert "indeterminate" in said and "between the cut-offs 0.2 and 0.9" in said
    assert "at least 95 % are not (from 80 cases)" in said
    assert "0.87" in text and text.count("stroke-dasharray") == 2
    withheld = replace(between, withheld=(reason,))
    text = replace(report, predictions=(withheld,)).to_html()
    assert "withheld" in text and "between the cut-offs 0.25 and 0.5" in text
    assert "0.87" not in text and "stroke-dasharray" not in text
