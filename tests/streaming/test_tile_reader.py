"""Reading tiles from files that are damaged and disks that stall."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import CancelledError, SlideReadError, TileDecodeError
from pathgene_rt.extraction.extract import Encoding, TileOrder, encode_slide
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.damaged import DamagedTiles
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.slides import watched_slide
from pathgene_rt.slides.watched_slide import WatchedSlide, open_watched
from pathgene_rt.streaming.encoder_service import EncoderService
from tests.support import tiny_models as tiny
from tests.support.numpy_engine import NumpyEngine
from tests.support.scripted_slide import ScriptedSlide, Stall, colour, grid_of, slow


@pytest.fixture
def service():
    with NumpyEngine() as engine, EncoderService(engine) as opened:
        yield opened


def encode(service: EncoderService, slide: ScriptedSlide, tiles: int, **options) -> np.ndarray:
    order = options.pop("order", np.arange(tiles))
    bag = GrowingBag(tiny.DIM, tiles)
    encoding = Encoding(service, bag, TileOrder(order, 8))
    (stats,) = encode_slide(slide, grid_of(tiles), [encoding], "box", readers=2, **options)
    assert stats.tiles == bag.encoded == tiles
    return bag.features


def expected(tiles: int, white: frozenset[int] = frozenset()) -> np.ndarray:
    square = (tiny.TILE_PX, tiny.TILE_PX, 3)
    painted = [
        np.broadcast_to(np.uint8(255) if number in white else colour(number), square)
        for number in range(tiles)
    ]
    return tiny.encode(np.stack(painted), tiny.encoder_weights())


def test_tiles_are_read_in_the_order_asked_for(service: EncoderService) -> None:
    read: list[int] = []
    order = np.random.default_rng(3).permutation(50)
    slide = ScriptedSlide(50, before=read.append)
    np.testing.assert_array_equal(encode(service, slide, 50, order=order), expected(50))
    assert sorted(read) == list(range(50))
    assert set(read[:10]) <= set(order[:12])  # two readers may be two tiles apart


def test_damaged_tiles_become_white_and_are_told(service: EncoderService) -> None:
    damaged = frozenset({3, 57, 58, 59, 199})
    inspection = TileInspection(CheckedSlide("scripted", 0.5, 500))
    bag = encode(service, ScriptedSlide(500, damaged), 500, inspection=inspection)
    np.testing.assert_array_equal(bag, expected(500, damaged))
    flags = inspection.of_rows(np.arange(500))
    assert np.flatnonzero(flags.flags["damaged"]).tolist() == sorted(damaged)
    assert flags.quality["damaged_tiles"] == 5 and flags.unchecked == 0
    (warning,) = inspection.warnings
    assert "5 of 500 tiles are damaged and were taken as white" in warning
    assert warning.count("x ") == 3 and "and more" in warning


def test_a_slide_is_asked_for_as_many_tiles_at_a_time_as_suit_it(service: EncoderService) -> None:
    asked: list[int] = []

    class Together(ScriptedSlide):
        reads_together = 7

        def read_many(self, corners_px, *more, **options):
            asked.append(len(corners_px))
            return super().read_many(corners_px, *more, **options)

    damaged = frozenset({3, 57, 199})
    np.testing.assert_array_equal(
        encode(service, Together(500, damaged), 500), expected(500, damaged)
    )
    assert sum(asked) == 500 and max(asked) == 7 and asked[0] == 1
    slow = Together(20, before=lambda _: time.sleep(0.06))
    asked.clear()
    np.testing.assert_array_equal(encode(service, slow, 20), expected(20))
    assert asked == [1] * 20


@pytest.mark.parametrize(("damaged", "tiles"), [(1, 48), (2, 100), (11, 1000)])
def test_over_one_percent_damaged_is_an_error(
    service: EncoderService, damaged: int, tiles: int
) -> None:
    slide = ScriptedSlide(tiles, frozenset(range(damaged)))
    told = rf"^scripted: {damaged} of its {tiles} tissue tiles cannot be decoded, at x 0 y 0.*again"
    with pytest.raises(SlideReadError, match=told) as raised:
        encode(service, slide, tiles)
    assert not isinstance(raised.value, TileDecodeError)
    assert raised.value.exit_code == 3
    sound = ScriptedSlide(60)
    np.testing.assert_array_equal(encode(service, sound, 60), expected(60))


@pytest.mark.parametrize(("damaged", "tiles"), [(1, 100), (10, 1000)])
def test_one_percent_damaged_is_not(service: EncoderService, damaged: int, tiles: int) -> None:
    white = frozenset(range(damaged))
    bag = encode(service, ScriptedSlide(tiles, white), tiles)
    np.testing.assert_array_equal(bag, expected(tiles, white))


def test_a_tile_that_is_read_twice_is_one_damaged_tile() -> None:
    slide, error = CheckedSlide("scripted", 0.5, 100), TileDecodeError("damaged")
    white = np.full((8, 8, 3), 255, np.uint8)
    inspection = TileInspection(slide, (DamagedTiles,))
    for _ in range(3):
        inspection.look(CheckedTile(1, (64, 0), white, error))
    assert inspection.of_rows(np.arange(100)).quality == {
        "damaged_tiles": 1,
        "damaged_tile_share": 1.0,
        "unusable_tiles": 1,
        "unusable_tile_share": 1.0,
        "unchecked_tiles": 99,
    }
    with pytest.raises(SlideReadError, match="2 of its 100"):
        inspection.look(CheckedTile(0, (0, 0), white, error))


def test_a_stalled_disk_is_an_error_and_the_next_slide_goes_on(service: EncoderService) -> None:
    stall = Stall(20, 21)  # both readers hang
    began = time.monotonic()
    with pytest.raises(SlideReadError, match=r"no tile could be read for 0\.3 s; .*--io-timeout"):
        encode(service, ScriptedSlide(50, before=stall), 50, io_timeout_s=0.3)
    assert time.monotonic() - began > 0.3  # no sooner than it says
    np.testing.assert_array_equal(encode(service, ScriptedSlide(50), 50), expected(50))
    stall.released.set()
    np.testing.assert_array_equal(encode(service, ScriptedSlide(50), 50), expected(50))


def test_a_stalled_slide_does_not_hold_up_another(service: EncoderService) -> None:
    stall, failed = Stall(20, 21), []

    def stalled() -> None:
        with pytest.raises(SlideReadError, match="no tile could be read"):
            encode(service, ScriptedSlide(50, before=stall), 50, io_timeout_s=0.8)
        failed.append(time.monotonic())

    beside = threading.Thread(target=stalled)
    beside.start()
    assert stall.reached.wait(10)
    np.testing.assert_array_equal(encode(service, ScriptedSlide(80), 80), expected(80))
    assert not failed
    beside.join(10)
    assert failed
    stall.released.set()


def test_one_hanging_read_of_many_is_found_when_the_others_are_done(
    service: EncoderService,
) -> None:
    stall = Stall(5)
    with pytest.raises(SlideReadError, match="no tile could be read"):
        encode(service, ScriptedSlide(50, before=stall), 50, io_timeout_s=0.3)
    stall.released.set()


def test_a_stall_that_ends_in_time_loses_nothing(service: EncoderService) -> None:
    stall = Stall(20, 21)
    threading.Timer(0.4, stall.released.set).start()
    bag = encode(service, ScriptedSlide(50, before=stall), 50, io_timeout_s=20)
    np.testing.assert_array_equal(bag, expected(50))


def test_a_slow_disk_is_no_stall(service: EncoderService) -> None:
    bag = encode(service, ScriptedSlide(30, before=slow(0.05)), 30, io_timeout_s=0.4)
    np.testing.assert_array_equal(bag, expected(30))


def test_readers_that_wait_for_the_encoder_are_no_stall() -> None:
    with NumpyEngine(seconds_a_tile=0.05) as engine, EncoderService(engine) as service:
        bag = encode(service, ScriptedSlide(20), 20, io_timeout_s=0.2)
    np.testing.assert_array_equal(bag, expected(20))


@pytest.mark.timeout(60)  # the stall is noticed after ten minutes only
def test_cancelling_does_not_wait_for_a_stall(service: EncoderService) -> None:
    stall, token = Stall(20, 21), CancellationToken()
    threading.Thread(target=lambda: (stall.reached.wait(), token.cancel())).start()
    with pytest.raises(CancelledError):
        encode(service, ScriptedSlide(50, before=stall), 50, token=token, io_timeout_s=600)
    stall.released.set()


def test_opening_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide is closed when it is opened after all."""
    released, slide = threading.Event(), ScriptedSlide(4)

    def hanging(path, mpp, *, mpp_override, isolate):
        assert released.wait(30)
        return slide

    monkeypatch.setattr(watched_slide, "open_slide", hanging)
    with pytest.raises(SlideReadError, match=r"^a: it could not be opened for 0\.2 s"):
        open_watched("a.svs", None, 0.2)
    assert not slide.closed.is_set()
    released.set()
    assert slide.closed.wait(5)


def test_an_overview_that_hangs() -> None:
    stall = Stall(0)
    with pytest.raises(SlideReadError, match=r"nothing was read for 0\.2 s"):
        WatchedSlide(ScriptedSlide(4, before=stall), 0.2).overview(8)
    stall.released.set()


def test_an_overview_that_is_slow_but_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathgene_rt.slides.overview.BLOCK_PX", 2 * tiny.TILE_PX)
    slide = WatchedSlide(ScriptedSlide(100, before=slow(0.05)), 0.4)
    began = time.monotonic()
    assert slide.overview(8).rgb.shape == (40, 40, 3)
    assert time.monotonic() - began > 1


def test_errors_of_a_watched_slide_are_those_of_the_slide(tmp_path) -> None:
    from pathgene_rt.errors import SlideOpenError

    with pytest.raises(SlideOpenError, match="check the path"):
        open_watched(tmp_path / "none.svs", None, 5)
