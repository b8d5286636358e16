"""Attention as a picture: ranks, branches, colours where they belong, readable at any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pathgene_rt.errors import EngineError
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.attention import percentile_ranks, share_of_top, shown_attention
from pathgene_rt.report.heatmap import HeatmapText, colour_table, draw_heatmap, scale_bar_um

TEXT = HeatmapText("slide-1", "EGFR mutation: mutated", "Research use only.", "Colour: rank.")
SIZE = (8000, 6000)
SPAN = 1000.0
PINK = (225, 150, 190)


def prediction(probabilities: tuple[float, ...], called: tuple[int, ...]) -> Prediction:
    classes = tuple("abcdef"[: len(probabilities)])
    return Prediction(
        "egfr", "subtype", None, classes, (0.0,) * len(classes), probabilities, None, called, True
    )


def overview(width: int = 1200, height: int = 900, colour=PINK) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def draw(xy, ranks, photo=None, size=SIZE, mpp=0.5, text=TEXT) -> Image.Image:
    photo = overview() if photo is None else photo
    corners = np.array(xy, np.int32).reshape(-1, 2)
    return draw_heatmap(photo, size, mpp, corners, SPAN, np.array(ranks, np.float32), text)


def picture_of(page: Image.Image, photo=PINK) -> np.ndarray:
    """The slide's picture within the page: found by the colour of what no tile covers."""
    pixels = np.asarray(page)
    rows, columns = np.nonzero((pixels == photo).all(axis=2))
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_ranks_by_hand() -> None:
    values = np.array([0.5, 0.1, 0.1, 0.3], np.float32)
    np.testing.assert_allclose(percentile_ranks(values), [87.5, 25, 25, 62.5])
    assert percentile_ranks(np.full(7, 1 / 7, np.float32)).tolist() == [50] * 7
    assert percentile_ranks(np.ones(1, np.float32)).tolist() == [50]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60))
def test_ranks_keep_the_order_and_average_one_half(values: list[float]) -> None:
    attention = np.array(values, np.float32)
    ranks = percentile_ranks(attention)
    assert ranks.mean() == pytest.approx(50, abs=1e-3)
    assert ((ranks[:, None] > ranks) == (attention[:, None] > attention)).all()


def test_share_of_the_top_tenth() -> None:
    assert share_of_top(np.full(100, 0.01, np.float32)) == pytest.approx(0.1)
    peaked = np.array([0.91, *[0.01] * 9], np.float32)
    assert share_of_top(peaked) == pytest.approx(0.91)
    assert share_of_top(np.ones(1, np.float32)) == 1
    assert share_of_top(np.zeros(10, np.float32)) == pytest.approx(0.1)


def test_which_branch_is_shown() -> None:
    attention = np.array([[1, 2, 6], [3, 4, 8]], np.float32)
    of_called = shown_attention(attention, prediction((0.5, 0.3, 0.2), (1,)))
    assert of_called.tolist() == [2, 4]
    likeliest = shown_attention(attention, prediction((0.1, 0.2, 0.7), ()))
    assert likeliest.tolist() == [6, 8]
    without_classes = shown_attention(attention, prediction((0.5, 0.5), (0,)))
    assert without_classes.tolist() == [3, 5]
    assert shown_attention(attention[:, :1], prediction((0.5, 0.5), (1,))).tolist() == [1, 3]


@pytest.mark.parametrize("bad", [np.array([[np.nan]]), np.array([[np.inf]]), np.ones(3)])
def test_attention_that_is_not_finite_names_the_head(bad: np.ndarray) -> None:
    with pytest.raises(EngineError, match="head egfr"):
        shown_attention(bad.astype(np.float32), prediction((0.5, 0.5), (1,)))


def test_the_colour_scale_is_even_and_grows_lighter() -> None:
    table = colour_table().astype(float) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.cbrt(luminance)
    steps = np.diff(lightness)
    assert table.shape == (256, 3)
    assert (np.diff(lightness[::8]) > 0).all()
    assert steps.mean() > 0.001 and np.abs(steps - steps.mean()).max() < 0.006


def test_colour_lies_on_the_tiles_and_nowhere_else() -> None:
    page = draw([(1000, 1000), (5000, 3000)], [0, 100])
    picture = picture_of(page)
    assert picture.shape[:2] == (900, 1200), "the overview is not scaled"
    assert (picture[:150] == PINK).all() and (picture[:, :150] == PINK).all()
    low, high = picture[151:299, 151:299], picture[451:599, 751:899]
    changed = (picture != PINK).any(axis=2)
    assert changed.sum() == 2 * 150 * 150
    assert (low == low[0, 0]).all() and (high == high[0, 0]).all()
    blueish, yellowish = low[0, 0].astype(int), high[0, 0].astype(int)
    assert blueish[2] > blueish[0] + 40
    assert yellowish[0] > yellowish[2] + 60 and yellowish[1] > yellowish[2] + 60


def test_tissue_stays_visible_under_the_colour() -> None:
    stripes = overview()
    stripes[:, ::2] = (90, 30, 80)
    page = draw([(1000, 1000)], [50], photo=stripes)
    pixels = np.asarray(page).astype(int).sum(axis=2)
    tile = pixels[300:400, :][:, 250:330]
    assert np.abs(np.diff(tile, axis=1)).min() > 60


def test_where_tiles_overlap_the_higher_rank_is_on_top() -> None:
    together = picture_of(draw([(1000, 1000), (1000, 1000)], [100, 0]))
    alone = picture_of(draw([(1000, 1000)], [100]))
    np.testing.assert_array_equal(together, alone)


def test_tiles_that_reach_past_the_slide_are_cut() -> None:
    picture = picture_of(draw([(7500, 5500), (0, 0)], [50, 50]), PINK)
    assert (picture != PINK).any(axis=2).sum() == 75 * 75 + 150 * 150


@pytest.mark.parametrize(
    ("width", "height"), [(40, 30), (1600, 90), (90, 1600), (5000, 3000), (1, 1)]
)
def test_any_size_gives_a_page_of_sensible_size(width: int, height: int) -> None:
    page = draw([(0, 0)], [50], photo=overview(width, height), size=(width * 60, height * 60))
    assert page.mode == "RGB"
    assert 900 <= page.width <= 1900 and 200 <= page.height <= 2000
    assert np.asarray(page)[0, 0].tolist() == [255, 255, 255]


def test_tiles_smaller_than_a_pixel_are_still_seen() -> None:
    size = (4_000_000, 3_000_000)
    page = draw([(2_000_000, 1_500_000)], [100], size=size)
    assert (picture_of(page) != PINK).any()


def test_bars_and_words_are_drawn() -> None:
    with_scale, without = draw([(0, 0)], [50]), draw([(0, 0)], [50], mpp=None)
    assert with_scale.size == without.size
    assert (np.asarray(with_scale) != np.asarray(without)).any()
    other = HeatmapText("slide-2", TEXT.subtitle, TEXT.notice, TEXT.footer)
    assert (np.asarray(draw([(0, 0)], [50], text=other)) != np.asarray(with_scale)).any()


def test_long_texts_are_shortened_or_wrapped_within_the_page() -> None:
    text = HeatmapText("x" * 500, "y" * 400, "word " * 200, "z" * 900)
    pixels = np.asarray(draw([(0, 0)], [50], text=text))
    assert (pixels[:, -20:] == 255).all() and (pixels[-12:] == 255).all()


def test_text_that_the_typeface_lacks_is_no_error() -> None:
    text = HeatmapText("病理-Ж-µ", "", "", "")
    assert draw([(0, 0)], [50], text=text).width >= 900


def test_equal_input_gives_equal_pixels() -> None:
    assert draw([(0, 0)], [3]).tobytes() == draw([(0, 0)], [3]).tobytes()


@pytest.mark.parametrize("ranks", [[np.nan], [101], [-1], [1, 2]])
def test_ranks_that_make_no_sense_are_refused(ranks: list[float]) -> None:
    with pytest.raises(ValueError, match="ranks"):
        draw([(0, 0)], ranks)


@pytest.mark.parametrize(
    ("available", "length"), [(1200, 1000), (999, 500), (500, 500), (0.3, 0.2), (45_000, 20_000)]
)
def test_scale_bars_are_round(available: float, length: float) -> None:
    assert scale_bar_um(available) == pytest.approx(length)
