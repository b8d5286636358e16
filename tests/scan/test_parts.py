"""What a scan session is made of: assembling tiles, the overview, tiles set aside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pathgene_rt.errors import EngineError, ScanMemoryError
from pathgene_rt.options import TissueOptions
from pathgene_rt.scan.assembler import BYTES_A_PIXEL, TileAssembler, WholeTile
from pathgene_rt.scan.deferred_tiles import DeferredTiles
from pathgene_rt.scan.mosaic import OverviewMosaic
from pathgene_rt.scan.pushed_bag import PushedBag
from pathgene_rt.scan.tissue_guess import Guess, TissueGuess
from tests.support.pushed_slides import rectangles

GREY = (200, 210, 220)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_grid(pixels: np.ndarray, tile: WholeTile, span: int) -> np.ndarray:
    left, top = tile.place[0] * span, tile.place[1] * span
    return pixels[top : top + span, left : left + span]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    span=st.integers(4, 70),
    side=st.integers(5, 90),
    overlap=st.integers(0, 4),
    factor=st.integers(1, 40),
    known=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_tiles_and_overview_are_those_of_the_whole(
    width, height, span, side, overlap, factor, known, order
) -> None:
    pixels = noise(width, height)
    size = (width, height)
    assembler = TileAssembler(span, size if known else None, GREY, 1 << 30)
    mosaic = OverviewMosaic(factor, GREY, size if known else None)
    places = rectangles(size, side, overlap)
    order.shuffle(places)
    tiles = [
        (tile.place, tile.rgb.copy(), tile.inside_px)
        for x, y, w, h in places
        for tile in assembler.push(pixels[y : y + h, x : x + w], x, y)
    ]
    assert not (known and assembler.partial)
    tiles += [(tile.place, tile.rgb, tile.inside_px) for tile in assembler.rest(size)]
    columns, rows = -(-width // span), -(-height // span)
    assert sorted(place for place, *_ in tiles) == [
        (column, row) for column in range(columns) for row in range(rows)
    ]
    for place, rgb, inside_px in tiles:
        tile = WholeTile(place, rgb, inside_px)
        expected = np.empty((span, span, 3), np.uint8)
        expected[:] = GREY
        there = on_grid(pixels, tile, span)
        expected[: there.shape[0], : there.shape[1]] = there
        np.testing.assert_array_equal(rgb, expected)
        means = mosaic.add(tile.inside, place[0] * span, place[1] * span)
        assert means.min() >= tile.inside.min()
        assert means.max() <= tile.inside.max()
    overview = np.asarray(Image.fromarray(pixels).reduce(factor))
    np.testing.assert_array_equal(mosaic.picture(size), overview)


def test_what_never_comes_is_background() -> None:
    pixels = noise(100, 80)
    assembler = TileAssembler(32, (100, 80), GREY, 1 << 30)
    mosaic = OverviewMosaic(7, GREY)
    whole = list(assembler.push(pixels[10:50, 20:90], 20, 10))
    assert [tile.place for tile in whole] == []
    assert assembler.never_pushed((100, 80)) == pytest.approx(1 - 40 * 70 / 8000)
    expected = np.empty_like(pixels)
    expected[:] = GREY
    expected[10:50, 20:90] = pixels[10:50, 20:90]
    for tile in assembler.rest((100, 80)):
        np.testing.assert_array_equal(tile.inside, on_grid(expected, tile, 32))
        mosaic.add(tile.inside, tile.place[0] * 32, tile.place[1] * 32)
    picture = np.asarray(Image.fromarray(expected).reduce(7))
    np.testing.assert_array_equal(mosaic.picture((100, 80)), picture)


def test_the_last_pixels_count_until_a_tile_is_whole() -> None:
    assembler = TileAssembler(8, (16, 8), GREY, 1 << 30)
    first, second = np.full((8, 6, 3), 1, np.uint8), np.full((8, 6, 3), 2, np.uint8)
    assert not list(assembler.push(first, 0, 0))
    (tile,) = assembler.push(second, 2, 0)
    np.testing.assert_array_equal(tile.rgb[0, :, 0], [1, 1, 2, 2, 2, 2, 2, 2])
    assert not list(assembler.push(first, 0, 0))
    assert (assembler.whole, assembler.partial) == (1, 0)
    assert assembler.never_pushed((16, 8)) == 0.5


def test_raster_order_holds_no_more_than_two_rows_of_tiles() -> None:
    size, span, side = (640, 500), 64, 100
    pixels = noise(*size)
    row_bytes = -(-size[0] // span) * span**2 * BYTES_A_PIXEL
    assembler = TileAssembler(span, size, GREY, 2 * row_bytes)
    most = 0
    for x, y, w, h in rectangles(size, side, 8):
        list(assembler.push(pixels[y : y + h, x : x + w], x, y))
        most = max(most, assembler.partial_bytes)
    assert 0 < most <= 2 * row_bytes
    assert assembler.partial == 0


def test_too_many_partial_tiles_are_refused_and_nothing_is_taken() -> None:
    pixels = noise(100, 100)
    assembler = TileAssembler(32, None, GREY, 3 * 32**2 * BYTES_A_PIXEL)
    list(assembler.push(pixels[:5, :40], 0, 0))
    with pytest.raises(ScanMemoryError, match=r"at \(40, 40\).*scan order.*partial_bytes"):
        assembler.push(pixels[:40, :40], 40, 40)
    assert assembler.partial == 2
    list(assembler.push(pixels[:5, :5], 70, 70))
    assert assembler.partial == 3


@pytest.mark.parametrize("kind", ["noise", "glass", "one colour"])
def test_tiles_set_aside_come_back_as_they_were(kind: str) -> None:
    tile = noise(64, 64)
    if kind == "glass":
        tile = (tile % 5) + np.uint8(230)
    if kind == "one colour":
        tile[:] = GREY
    store = DeferredTiles(64, 20_000)
    assert store.put((3, 4), tile)
    assert len(store) == 1
    found = store.take((3, 4))
    assert found is not None
    np.testing.assert_array_equal(found, tile)
    assert store.take((3, 4)) is None
    assert len(store) == 0


def test_no_more_is_set_aside_than_the_limit() -> None:
    store = DeferredTiles(64, 20_000)
    kept = [store.put((number, 0), noise(64, 64, number)) for number in range(3)]
    assert kept == [True, False, False]
    store.take((0, 0))
    assert store.put((1, 0), noise(64, 64))


def test_glass_is_told_from_tissue_by_what_white_is() -> None:
    """Yellowish glass has chroma of its own, which is no tissue once there is enough of it."""
    guess = TissueGuess(TissueOptions())
    glass = np.full((8, 8, 3), (230, 228, 212), np.uint8)
    tissue = np.full((8, 8, 3), (200, 150, 190), np.uint8)
    assert guess.judge(glass) is Guess.GLASS
    assert guess.judge(tissue) is Guess.TISSUE
    mixed = glass.copy()
    mixed[:2] = tissue[:2]
    assert guess.judge(mixed) is Guess.TISSUE
    mixed[1] = glass[1]
    assert guess.judge(mixed) is Guess.GLASS


def test_pale_tiles_may_be_tissue_and_ink_is_none() -> None:
    guess = TissueGuess(TissueOptions())
    for colour, expected in (
        ((255, 255, 255), Guess.GLASS),
        ((200, 150, 190), Guess.TISSUE),
        ((170, 154, 168), Guess.MAYBE),
        ((35, 60, 180), Guess.GLASS),
        ((40, 140, 80), Guess.GLASS),
    ):
        assert guess.judge(np.full((8, 8, 3), colour, np.uint8)) is expected


def test_rows_of_a_bag_whose_tiles_are_not_known_beforehand() -> None:
    bag = PushedBag(2, lambda rows: np.ones(len(rows), bool))
    places = [(number % 50, number // 50) for number in range(3000)]
    for place in places:
        bag.send(place)
    features = np.random.default_rng(0).random((3000, 2), dtype=np.float32)
    bag.add(1000, 2000, features[1000:])
    assert (bag.sent, bag.encoded) == (3000, 2000)
    rows, found, news = bag.take_new()
    np.testing.assert_array_equal(rows, np.arange(1000, 3000))
    np.testing.assert_array_equal(found, places[1000:])
    np.testing.assert_array_equal(news, features[1000:])
    bag.add(0, 1000, features[:1000])
    np.testing.assert_array_equal(bag.reported()[1], features[1000:])
    np.testing.assert_array_equal(bag.take_new()[1], places[:1000])
    assert len(bag.take_new()[0]) == 0
    np.testing.assert_array_equal(bag.reported()[0], places)
    np.testing.assert_array_equal(bag.rows(places[::-7]), features[::-7])
    bag.send((9, 99))
    with pytest.raises(EngineError, match=r"\(9, 99\)"):
        bag.add(3000, 1, np.full((1, 2), np.nan, np.float32))
