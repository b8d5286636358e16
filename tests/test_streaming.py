"""Slots, batches, cancellation: order kept, memory bounded, nobody left waiting."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt.encode import encode_batches
from pathgene_rt.errors import CancelledError, EngineError, SlideReadError
from pathgene_rt.streaming.batcher import TileBatcher
from pathgene_rt.streaming.cancellation import CancellationToken

from . import tiny_models as tiny
from .numpy_engine import NumpyEngine


def tile(number: int) -> np.ndarray:
    colour = np.array([number % 256, number // 256 % 256, 77], np.uint8)
    return np.broadcast_to(colour, (tiny.TILE_PX, tiny.TILE_PX, 3))


def produce(batcher: TileBatcher, *, delay: float = 0.0, fail_at: int | None = None, token=None):
    """Fill slots until the batcher has enough, as a reader thread does."""
    try:
        while (slot := batcher.acquire()) is not None:
            if slot.number == fail_at:
                raise SlideReadError("tile is damaged")
            time.sleep(delay * (slot.number % 3))
            slot.rgb[:] = tile(slot.number)
            batcher.commit(slot)
    except BaseException as error:  # noqa: BLE001 - what TileReader does
        token.cancel(error)


def run(total: int, capacity: int, threads: int, engine: NumpyEngine, **options):
    token = CancellationToken()
    batcher = TileBatcher(engine, tiny.TILE_PX, capacity, token, total=total)
    workers = [
        threading.Thread(target=produce, args=(batcher,), kwargs={**options, "token": token})
        for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    try:
        return encode_batches(engine, batcher, total)
    finally:
        token.cancel()
        for worker in workers:
            worker.join(2)
            assert not worker.is_alive()


@settings(deadline=None, max_examples=25)
@given(total=st.integers(1, 70), capacity=st.integers(1, 17), threads=st.integers(1, 4))
def test_features_are_in_grid_order(total: int, capacity: int, threads: int) -> None:
    with NumpyEngine() as engine:
        bag, stats = run(total, capacity, threads, engine, delay=0.0002)
        tiles = np.stack([tile(number) for number in range(total)])
        expected = tiny.encode(tiles, tiny.encoder_weights())
        np.testing.assert_array_equal(bag, expected)
        assert sum(engine.batches) == total == stats.tiles
        assert max(engine.batches) <= capacity


def test_two_batches_are_in_flight_and_the_engine_is_busy() -> None:
    with NumpyEngine(seconds_a_tile=0.002) as engine:
        _, stats = run(160, 8, 2, engine)
        assert engine.most_outstanding == 2
        assert stats.busy_share > 0.9


def test_producers_wait_for_the_engine() -> None:
    """Back-pressure: with the engine stalled only the circulating buffers can be filled."""
    with NumpyEngine() as engine:
        token = CancellationToken()
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, token, total=1000, ahead=2)
        worker = threading.Thread(target=produce, args=(batcher,), kwargs={"token": token})
        worker.start()
        batches = batcher.batches()
        first = next(batches)
        time.sleep(0.2)
        assert batcher._next == 4 * (engine.in_flight + 2)
        batcher.release(first)
        time.sleep(0.2)
        assert batcher._next == 4 * (engine.in_flight + 3)
        token.cancel()
        worker.join(2)
        assert not worker.is_alive()


def test_first_failure_wins_and_wakes_everyone() -> None:
    with NumpyEngine() as engine, pytest.raises(SlideReadError, match="tile is damaged"):
        run(100, 8, 3, engine, fail_at=37)


def test_engine_failure_leaves_the_engine_usable() -> None:
    with NumpyEngine(fail_at=3) as engine:
        with pytest.raises(EngineError, match="device was lost"):
            run(100, 8, 2, engine)
        bag, _ = run(20, 8, 2, engine)
        np.testing.assert_array_equal(
            bag, tiny.encode(np.stack([tile(i) for i in range(20)]), tiny.encoder_weights())
        )


def test_cancelling_a_stalled_producer_returns_at_once() -> None:
    """A reader that hangs (a dead network share) does not keep the consumer waiting."""
    with NumpyEngine() as engine:
        token = CancellationToken()
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, token, total=8)
        batcher.acquire()  # never committed
        threading.Timer(0.1, token.cancel).start()
        began = time.perf_counter()
        with pytest.raises(CancelledError):
            encode_batches(engine, batcher, 8)
        assert time.perf_counter() - began < 1


def test_pushed_tiles_of_unknown_number() -> None:
    with NumpyEngine() as engine:
        token = CancellationToken()
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, token)
        for number in range(6):
            slot = batcher.acquire()
            assert slot is not None
            slot.rgb[:] = tile(number)
            batcher.commit(slot)
        batcher.finish()
        assert [batch.count for batch in batcher.batches()] == [4, 2]
        assert batcher.acquire() is None


def test_finish_waits_for_a_slot_still_being_written() -> None:
    with NumpyEngine() as engine:
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, CancellationToken())
        slot = batcher.acquire()
        assert slot is not None
        batcher.finish()
        threading.Timer(0.1, batcher.commit, [slot]).start()
        assert [batch.count for batch in batcher.batches()] == [1]


def test_nan_features_name_the_tile() -> None:
    with NumpyEngine() as engine:
        engine._weights = engine._weights * np.float32(np.nan)
        with pytest.raises(EngineError, match="tile 0"):
            run(5, 4, 1, engine)
