"""A slide that is pushed: the same tiles and predictions as its file, back-pressure, bad calls."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pathgene_rt import EngineOptions, PredictOptions, Predictor, Report
from pathgene_rt.errors import (
    CancelledError,
    EngineError,
    NoTissueError,
    OutputError,
    ScanError,
    ScanInputError,
    ScanMemoryError,
    ScanStateError,
    ScanTimeoutError,
    SlideScaleError,
)
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.scan.session import ScanOptions, ScanSession
from pathgene_rt.slides import open_slide
from tests.support import tiny_models as tiny
from tests.support.numpy_engine import NumpyEngine
from tests.support.pushed_slides import (
    SIZE_PX,
    picture,
    predictor_on,
    push_all,
    rectangles,
    write_file,
)

MPP = 0.5
SCALES = (0.5, 0.25, 0.3)
"""Of one pixel a pixel, of two by two, and resampled."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Iterator[Predictor]:
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture()


@pytest.fixture(scope="module")
def from_file(
    predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> dict[float, tuple[np.ndarray, FeatureBag, Report]]:
    """By scale: a slide's pixels, and its bag and report as a file."""
    folder = tmp_path_factory.mktemp("slides")
    found = {}
    for mpp in SCALES:
        pixels = picture(mpp=mpp)
        options = PredictOptions(mpp=mpp)
        path = write_file(folder / f"{mpp}.tiff", pixels)
        bag, _ = predictor.extract(path, options)
        found[mpp] = (pixels, bag, predictor.predict(path, options))
    return found


def assert_same(report: Report, session: ScanSession, bag: FeatureBag, expected: Report) -> None:
    assert session._result is not None
    np.testing.assert_array_equal(session._result.slide.tiles.bag.xy, bag.xy)
    np.testing.assert_allclose(session._result.slide.tiles.bag.features, bag.features, atol=1e-6)
    assert report.quality == expected.quality
    assert report.warnings == expected.warnings
    for ours, theirs in zip(report.predictions, expected.predictions, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)
        assert ours.call == theirs.call
    for head, attention in expected.attention.items():
        np.testing.assert_allclose(report.attention[head], attention, atol=1e-6)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mpp=st.sampled_from(SCALES),
    side=st.integers(40, 700),
    overlap=st.integers(0, 30),
    known=st.booleans(),
    repeats=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_any_order_overlap_and_size_gives_what_the_file_gives(
    predictor: Predictor, from_file, mpp, side, overlap, known, repeats, order
) -> None:
    pixels, bag, expected = from_file[mpp]
    places = rectangles(SIZE_PX, side, overlap)
    places += order.sample(places, min(repeats, len(places)))
    order.shuffle(places)
    with predictor.open_scan(mpp, SIZE_PX if known else None) as session:
        push_all(session, pixels, places)
        assert_same(session.finish(30), session, bag, expected)


@pytest.mark.parametrize("pixel_format", ["RGB", "RGBA", "BGR", "BGRA"])
def test_any_layout_of_memory(predictor: Predictor, from_file, pixel_format) -> None:
    pixels, bag, expected = from_file[MPP]
    order = [pixel_format.index(channel) for channel in "RGB"]
    # Rows with a gap, as cameras align them, and a last row first, as bitmaps have it.
    frame = np.full((SIZE_PX[1], SIZE_PX[0] + 37, len(pixel_format)), 99, np.uint8)
    frame[::-1, : SIZE_PX[0], order] = pixels
    view = frame[::-1, : SIZE_PX[0]]
    with predictor.open_scan(MPP, SIZE_PX) as session:
        for x, y, w, h in rectangles(SIZE_PX, 300, 8):
            assert session.push(view[y : y + h, x : x + w], x, y, format=pixel_format)
        assert_same(session.finish(30), session, bag, expected)


def test_the_caller_may_reuse_its_memory(predictor: Predictor, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    with predictor.open_scan(MPP, SIZE_PX) as session:
        for x, y, w, h in rectangles(SIZE_PX, 300):
            camera = pixels[y : y + h, x : x + w].copy()
            assert session.push(camera, x, y)
            camera[:] = 0
        assert_same(session.finish(30), session, bag, expected)


def test_what_is_never_pushed_is_background(
    predictor: Predictor, pixels: np.ndarray, tmp_path: Path
) -> None:
    background = (250, 248, 240)
    scanned = pixels.copy()
    scanned[500:, :400] = background
    bag, _ = predictor.extract(write_file(tmp_path / "part.tiff", scanned), PredictOptions(mpp=MPP))
    with predictor.open_scan(MPP, SIZE_PX, background=background) as session:
        session.push(pixels[:500], 0, 0)
        session.push(pixels[500:, 400:], 400, 500)
        report = session.finish(30)
        share = 400 * (SIZE_PX[1] - 500) / (SIZE_PX[0] * SIZE_PX[1])
        assert report.warnings[0].startswith(f"{share:.2%} of the slide was never pushed")
        assert session._result is not None
        np.testing.assert_array_equal(session._result.slide.tiles.bag.xy, bag.xy)
        np.testing.assert_allclose(
            session._result.slide.tiles.bag.features, bag.features, atol=1e-6
        )


@pytest.mark.parametrize("tile_px", [64, 256])
def test_a_real_slide(cmu_slide: Path, tmp_path: Path, tile_px: int) -> None:
    """Beside its pixels in a file without loss, and beside the scanner's file."""
    with open_slide(cmu_slide) as slide:
        info = slide.info
        pixels = slide.read((0, 0), 0, info.size_px)
    assert info.mpp is not None
    options = PredictOptions(mpp=info.mpp)
    lossless = write_file(tmp_path / "lossless.tiff", pixels)
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt", tile_px=tile_px)
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        bag, _ = predictor.extract(lossless, options)
        expected = predictor.predict(lossless, options)
        with predictor.open_scan(info.mpp, info.size_px) as session:
            push_all(session, pixels, rectangles(info.size_px, 512, 8))
            report = session.finish(30)
            assert_same(report, session, bag, expected)
        np.testing.assert_array_equal(predictor.extract(cmu_slide)[0].xy, bag.xy)
        for ours, theirs in zip(
            report.predictions, predictor.predict(cmu_slide).predictions, strict=True
        ):
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)


def test_tiles_in_a_hole_wait_for_the_end(predictor: Predictor, from_file) -> None:
    """They look like glass: only the whole slide shows that they lie inside of tissue."""
    pixels, bag, _ = from_file[MPP]
    with predictor.open_scan(MPP, SIZE_PX) as session:
        session.push(pixels, 0, 0)
        before = session.poll()
        assert before.whole == before.waiting + before.encoded + before.deferred
        early = set(session._bag._places) | {place for place, _ in session._waiting}
        session.finish(30)
    grid = {(int(column), int(row)) for column, row in bag.coords}
    assert grid - early
    assert len(early - grid) < 0.1 * len(grid)


def test_an_idle_encoder_takes_pale_tiles_too(predictor: Predictor) -> None:
    """They would be tissue on a slide where nothing is darker."""
    pixels = np.full((640, 640, 3), 255, np.uint8)
    pixels[:, :256] = (200, 150, 190)
    pixels[:, 384:] = (185, 170, 183)
    with predictor.open_scan(MPP) as session:
        session.push(pixels, 0, 0)
        wait_until(lambda: session._bag.sent == 10 * (4 + 4))
        report = session.finish(30)
        assert report.provenance.tiles == 10 * 4
        assert session.poll().deferred == 0


def test_no_room_to_defer_tiles_only_costs_time(predictor: Predictor, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    options = ScanOptions(deferred_bytes=0)
    with predictor.open_scan(MPP, SIZE_PX, options=options) as session:
        push_all(session, pixels, rectangles(SIZE_PX, 300))
        assert session.poll().deferred == 0
        assert_same(session.finish(30), session, bag, expected)


def test_files_of_a_report(predictor: Predictor, pixels: np.ndarray, tmp_path: Path) -> None:
    with predictor.open_scan(MPP, SIZE_PX, slide_id="case-7") as session:
        session.push(pixels, 0, 0)
        report = session.finish(30, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document == json.loads(json.dumps(report.to_dict()))
    assert document["slide"] == "case-7"
    assert document["provenance"]["tiles"]["count"] > 50
    assert set(document["files"].values()) | {"report.json"} == {
        file.name for file in (tmp_path / "out").iterdir()
    }
    (tmp_path / "file").write_text("in the way")
    with predictor.open_scan(MPP, SIZE_PX) as session:
        session.push(pixels, 0, 0)
        with pytest.raises(OutputError):
            session.finish(30, out=tmp_path / "file" / "out")
        assert session.finish(30).provenance.tiles == report.provenance.tiles


def test_pseudonymized(predictor: Predictor, pixels: np.ndarray) -> None:
    options = ScanOptions(pseudonyms=Pseudonyms.random())
    with predictor.open_scan(MPP, SIZE_PX, slide_id="case-7", options=options) as session:
        session.push(pixels, 0, 0)
        assert "case-7" not in json.dumps(session.finish(30).to_dict())


def test_interim_predictions_become_the_final_ones(predictor: Predictor, from_file) -> None:
    pixels, _, expected = from_file[MPP]
    with predictor.open_scan(MPP, SIZE_PX) as session:
        assert session.poll().interim == ()
        session.push(pixels[:600], 0, 0)
        wait_until(lambda: session.poll().interim)
        interim = session.poll()
        assert [one.head for one in interim.interim] == [one.head for one in expected.predictions]
        for one in interim.interim:
            assert one.interval is not None
            assert all(
                low <= chance <= high
                for (low, high), chance in zip(one.interval, one.probabilities, strict=True)
            )
        json.dumps(interim.to_dict())
        session.push(pixels[600:], 0, 600)
        report = session.finish(30)
        assert session.poll().encoded >= report.provenance.tiles


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class GatedEngine(NumpyEngine):
    """Begins when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def _run(self, tiles: np.ndarray, number: int) -> np.ndarray:
        assert self.gate.wait(30)
        return super()._run(tiles, number)


def test_push_is_busy_when_the_encoder_is_behind_and_then_takes_nothing(
    bundle: Path, pixels: np.ndarray, from_file
) -> None:
    _, bag, expected = from_file[MPP]
    options = ScanOptions(waiting_tiles=8)
    with (
        GatedEngine() as engine,
        predictor_on(bundle, engine, batch=4) as predictor,
        predictor.open_scan(MPP, SIZE_PX, options=options) as session,
    ):
        busy = 0
        for x, y, w, h in rectangles(SIZE_PX, 128):
            while True:
                before = session.poll()
                taken = session.push(pixels[y : y + h, x : x + w], x, y)
                assert len(session._waiting) < 8 + 9
                if taken:
                    break
                busy += 1
                if busy > 10:
                    engine.gate.set()
                after = session.poll()
                assert (after.whole, after.pushes) == (before.whole, before.pushes)
                time.sleep(0.002)
        assert session.poll().busy == busy > 10
        assert_same(session.finish(30), session, bag, expected)


def test_partial_tiles_over_the_limit(predictor: Predictor, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    row = -(-SIZE_PX[0] // tiny.TILE_PX)
    options = ScanOptions(partial_bytes=2 * row * tiny.TILE_PX**2 * 4)
    with predictor.open_scan(MPP, SIZE_PX, options=options) as session:
        session.push(pixels[:10], 0, 0)
        session.push(pixels[320:330], 0, 320)
        with pytest.raises(ScanMemoryError, match="scan order"):
            session.push(pixels[620:630], 0, 620)
        session.push(pixels, 0, 0)
        assert_same(session.finish(30), session, bag, expected)


def test_several_sessions_share_the_encoder_fairly(bundle: Path, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    with (
        NumpyEngine(seconds_a_tile=0.001) as engine,
        predictor_on(bundle, engine) as predictor,
        ExitStack() as opened,
        ThreadPoolExecutor(3) as threads,
    ):
        sessions = [opened.enter_context(predictor.open_scan(MPP, SIZE_PX)) for _ in range(3)]
        all_pushed = threading.Barrier(3)

        def scan(session: ScanSession) -> int:
            """Tiles encoded of the session that is furthest behind when this one is done."""
            push_all(session, pixels, rectangles(SIZE_PX, 300))
            all_pushed.wait(60)
            assert_same(session.finish(60), session, bag, expected)
            return min(other.poll().encoded for other in sessions)

        behind = min(threads.map(scan, sessions))
    # Of equal work, taken in turn, all end together.
    assert behind > 0.75 * len(bag)


def test_a_failing_session_does_not_disturb_another(bundle: Path, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    with (
        NumpyEngine(fail_at=1) as engine,
        predictor_on(bundle, engine) as predictor,
        predictor.open_scan(MPP, SIZE_PX) as failing,
        predictor.open_scan(MPP, SIZE_PX) as other,
        predictor.open_scan(MPP, SIZE_PX) as cancelled,
    ):
        failing.push(pixels, 0, 0)
        for _ in range(2):
            with pytest.raises(EngineError, match="device was lost"):
                failing.finish(30)
        with pytest.raises(EngineError, match="device was lost"):
            failing.push(pixels, 0, 0)
        cancelled.push(pixels, 0, 0)
        cancelled.cancel()
        push_all(other, pixels, rectangles(SIZE_PX, 300))
        assert_same(other.finish(30), other, bag, expected)


def test_eight_threads_push_to_one_session(predictor: Predictor, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    places = rectangles(SIZE_PX, 90, 10) * 2
    with predictor.open_scan(MPP, SIZE_PX) as session:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: push_all(session, pixels, places[number::8]), range(8)))
        assert_same(session.finish(30), session, bag, expected)


def test_calls_after_the_end(predictor: Predictor, pixels: np.ndarray) -> None:
    session = predictor.open_scan(MPP, SIZE_PX)
    session.push(pixels, 0, 0)
    session.finish(30)
    with pytest.raises(ScanStateError, match="push after finish"):
        session.push(pixels, 0, 0)
    with pytest.raises(ScanStateError, match="second finish"):
        session.finish(30)
    session.close()
    session.close()
    session.cancel()
    for call in (lambda: session.push(pixels, 0, 0), session.poll, session.finish):
        with pytest.raises(ScanStateError, match="closed"):
            call()
    assert not session._thread.is_alive()


def test_a_cancelled_session(predictor: Predictor, pixels: np.ndarray) -> None:
    with predictor.open_scan(MPP, SIZE_PX) as session:
        session.push(pixels[:600], 0, 0)
        session.cancel()
        session.cancel()
        for call in (lambda: session.push(pixels, 0, 0), session.poll, session.finish):
            with pytest.raises(CancelledError, match="cancelled"):
                call()
        wait_until(lambda: not session._thread.is_alive())


def test_cancelling_wakes_a_waiting_finish(bundle: Path, pixels: np.ndarray, from_file) -> None:
    with (
        NumpyEngine(seconds_a_tile=0.05) as engine,
        predictor_on(bundle, engine, batch=2) as predictor,
        predictor.open_scan(MPP, SIZE_PX) as session,
    ):
        session.push(pixels, 0, 0)
        threading.Timer(0.1, session.cancel).start()
        with pytest.raises(CancelledError):
            session.finish()
        assert sum(engine.batches) < len(from_file[MPP][1])  # it did not wait for all tiles


def test_time_out_of_finish(bundle: Path, from_file) -> None:
    pixels, bag, expected = from_file[MPP]
    with (
        NumpyEngine(seconds_a_tile=0.004) as engine,
        predictor_on(bundle, engine) as predictor,
        predictor.open_scan(MPP, SIZE_PX) as session,
    ):
        session.push(pixels, 0, 0)
        with pytest.raises(ScanTimeoutError, match=r"0\.01 s"):
            session.finish(0.01)
        with pytest.raises(ScanStateError, match="push after finish"):
            session.push(pixels, 0, 0)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(session.finish, 30)
            wait_until(lambda: session._finish_waits)
            with pytest.raises(ScanStateError, match="second finish"):
                session.finish(30)
            assert_same(first.result(), session, bag, expected)


def test_no_tissue(predictor: Predictor) -> None:
    glass = np.full((300, 300, 3), 235, np.uint8)
    with predictor.open_scan(MPP) as session:
        session.push(glass, 0, 0)
        with pytest.raises(NoTissueError):
            session.finish(30)
    with predictor.open_scan(MPP) as session, pytest.raises(NoTissueError, match="nothing was"):
        session.finish(30)


BAD_PIXELS = {
    "no array": ([[1, 2, 3]], "list"),
    "wrong dtype": (np.zeros((4, 4, 3), np.float32), "float32"),
    "grey": (np.zeros((4, 4), np.uint8), r"\[4, 4\]"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"\[h, w, 3\]"),
    "no width": (np.zeros((4, 0, 3), np.uint8), r"\[4, 0, 3\]"),
    "no height": (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
}


@pytest.mark.parametrize("kind", BAD_PIXELS)
def test_bad_pixels(predictor: Predictor, kind: str) -> None:
    bad, words = BAD_PIXELS[kind]
    with predictor.open_scan(MPP, SIZE_PX) as session:
        with pytest.raises(ScanInputError, match=words):
            session.push(bad, 0, 0)  # type: ignore[arg-type]
        assert session.push(np.zeros((4, 4, 3), np.uint8), 0, 0)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (1397, 0), (0, 1197), (2**40, 0), (0.5, 0)])
def test_bad_rectangles(predictor: Predictor, corner) -> None:
    with predictor.open_scan(MPP, SIZE_PX) as session:
        with pytest.raises(ScanInputError) as caught:
            session.push(np.zeros((4, 4, 3), np.uint8), *corner)
        assert str(corner[0]) in str(caught.value)
        assert session.push(np.zeros((4, 4, 3), np.uint8), 1396, 1196)


def test_bad_scans(predictor: Predictor) -> None:
    for mpp in (0, -0.5, float("nan"), float("inf"), 1000):
        with pytest.raises(ScanInputError, match="mpp"):
            predictor.open_scan(mpp, SIZE_PX)
    with pytest.raises(SlideScaleError, match=r"0\.6 um/px"):
        predictor.open_scan(0.6, SIZE_PX)
    for size in ((0, 100), (100, -1), (2**31, 100)):
        with pytest.raises(ScanInputError, match=str(size[0])):
            predictor.open_scan(MPP, size)
    for colour in ((1, 2), (0, 0, 256), (-1, 0, 0)):
        with pytest.raises(ScanInputError, match="colour"):
            predictor.open_scan(MPP, background=colour)
    with pytest.raises(ScanInputError, match="waiting_tiles 0"):
        ScanOptions(waiting_tiles=0)
    with predictor.open_scan(MPP) as session:
        for timeout in (-1, float("nan")):
            with pytest.raises(ScanInputError, match="timeout"):
                session.finish(timeout)
        with pytest.raises(ScanInputError, match="format"):
            session.push(np.zeros((4, 4, 3), np.uint8), 0, 0, format="GBR")  # type: ignore[arg-type]
        with pytest.raises(ScanInputError, match="give size_px"):
            session.push(np.zeros((4, 4, 3), np.uint8), 200_000, 100_000)


def test_the_codes_of_errors_differ() -> None:
    errors = (ScanError, ScanInputError, ScanStateError, ScanMemoryError, ScanTimeoutError)
    assert len({error.code for error in errors}) == len(errors)


def test_sessions_leave_no_thread(predictor: Predictor, pixels: np.ndarray) -> None:
    def scan(number: int) -> None:
        with predictor.open_scan(MPP, SIZE_PX) as session:
            session.push(pixels[: 600 + 100 * number], 0, 0)
            if number % 2:
                session.finish(30)

    scan(1)  # the predictor's own begin with its first
    before = threading.active_count()
    for number in range(6):
        scan(number)
    assert threading.active_count() == before


def test_a_session_that_nobody_holds_is_freed_at_once(
    predictor: Predictor, pixels: np.ndarray
) -> None:
    def scanned() -> weakref.ref[ScanSession]:
        with predictor.open_scan(MPP, SIZE_PX) as session:
            session.push(pixels, 0, 0)
            wait_until(lambda: session.poll().interim)
            session.finish(30)
        return weakref.ref(session)

    gc.disable()
    try:
        assert scanned()() is None
    finally:
        gc.enable()


def test_closing_the_predictor_ends_its_sessions(bundle: Path, pixels: np.ndarray) -> None:
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime")) as opened:
        session = opened.open_scan(MPP, SIZE_PX)
        session.push(pixels, 0, 0)
    with pytest.raises(CancelledError, match="closed"):
        session.finish(5)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        opened.open_scan(MPP, SIZE_PX)
