"""Slots, batches, cancellation: order kept, memory bounded, nobody left waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import CancelledError, EngineError, SlideReadError
from pathgene_rt.extraction.extract import TileOrder
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.streaming.batcher import TileBatcher
from pathgene_rt.streaming.encoder_service import EncoderService
from tests.support import tiny_models as tiny
from tests.support.numpy_engine import NumpyEngine


def tile(number: int) -> np.ndarray:
    colour = np.array([number % 256, number // 256 % 256, 77], np.uint8)
    return np.broadcast_to(colour, (tiny.TILE_PX, tiny.TILE_PX, 3))


def encoded(numbers) -> np.ndarray:
    return tiny.encode(np.stack([tile(int(n)) for n in numbers]), tiny.encoder_weights())


def produce(stream, rows=None, *, delay: float = 0.0, fail_at: int | None = None, token=None):
    """Fill slots until the stream has enough, as a reader thread does."""
    try:
        while (slot := stream.acquire()) is not None:
            if slot.number == fail_at:
                raise SlideReadError("tile is damaged")
            time.sleep(delay * (slot.number % 3))
            slot.rgb[:] = tile(slot.number if rows is None else rows[slot.number])
            stream.commit(slot)
    except BaseException as error:  # noqa: BLE001 - what TileReader does
        token.cancel(error)


def run(service: EncoderService, order: TileOrder, threads: int, *, on_batch=None, **options):
    """The bag of a stream whose tile ``order.rows[p]`` is at position p, and its stats."""
    token = CancellationToken()
    total = len(order.rows)
    bag = GrowingBag(tiny.DIM, total)

    def sink(first: int, count: int, features: np.ndarray) -> None:
        bag.put(order.rows_of(first, count), features)
        if on_batch is not None:
            on_batch(first, order.rows_of(first, count), features)

    with service.open(
        tiny.TILE_PX, order.batch, token, sink, total=total, done=order.done
    ) as stream:
        workers = [
            threading.Thread(
                target=produce, args=(stream, order.rows), kwargs={**options, "token": token}
            )
            for _ in range(threads)
        ]
        for worker in workers:
            worker.start()
        try:
            return bag, stream.wait()
        finally:
            token.cancel()
            for worker in workers:
                worker.join(2)
                assert not worker.is_alive()


def in_order(total: int, batch: int) -> TileOrder:
    return TileOrder(np.arange(total), batch)


@settings(deadline=None, max_examples=25)
@given(
    total=st.integers(1, 70),
    capacity=st.integers(1, 17),
    threads=st.integers(1, 4),
    shuffle=st.booleans(),
    done=st.sets(st.integers(0, 9)),
)
def test_features_go_to_their_rows_in_any_order(
    total: int, capacity: int, threads: int, shuffle: bool, done: set[int]
) -> None:
    rows = np.random.default_rng(total).permutation(total) if shuffle else np.arange(total)
    left_out = {number * capacity for number in done if number * capacity < total}
    order = TileOrder(rows, capacity, left_out)
    missing = np.ones(total, bool)
    for first in left_out:
        missing[order.rows_of(first, capacity)] = False
    with NumpyEngine() as engine, EncoderService(engine) as service:
        bag, stats = run(service, order, threads, delay=0.0002)
        np.testing.assert_array_equal(bag.done, missing)
        np.testing.assert_array_equal(bag.features[missing], encoded(range(total))[missing])
        assert sum(engine.batches) == missing.sum() == stats.tiles
        assert max(engine.batches, default=0) <= capacity


def test_two_batches_are_in_flight_and_the_engine_is_busy() -> None:
    with NumpyEngine(seconds_a_tile=0.002) as engine, EncoderService(engine) as service:
        _, stats = run(service, in_order(160, 8), 2)
        assert engine.most_outstanding == 2
        assert stats.busy_share > 0.9


def test_a_batch_that_is_ready_later_does_not_wait_for_the_one_before() -> None:
    """The first of a slide's is complete before the second, whose cores would be idle."""
    computing, both = threading.Event(), threading.Event()

    class Waiting(NumpyEngine):
        def _run(self, tiles: np.ndarray, number: int) -> np.ndarray:
            computing.set()
            assert both.wait(10)
            return super()._run(tiles, number)

        def submit(self, inputs: Mapping[str, np.ndarray]) -> None:
            super().submit(inputs)
            if len(self.batches) == 2:
                both.set()

    found: list[int] = []
    with (
        Waiting() as engine,
        EncoderService(engine) as service,
        service.open(
            tiny.TILE_PX, 1, CancellationToken(), lambda first, *_: found.append(first), total=2
        ) as stream,
    ):
        for number in range(2):
            slot = stream.acquire()
            assert slot is not None
            slot.rgb[:] = tile(number)
            stream.commit(slot)
            assert computing.wait(10)
        stream.wait()
    assert found == [0, 1]


def test_producers_wait_for_the_engine() -> None:
    """Back-pressure: with the engine stalled only the circulating buffers can be filled."""
    with NumpyEngine() as engine:
        token = CancellationToken()
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, token, total=1000, ahead=2)
        worker = threading.Thread(target=produce, args=(batcher,), kwargs={"token": token})
        worker.start()
        while (first := batcher.take()) is None:
            time.sleep(0.01)
        time.sleep(0.2)
        assert batcher._next == 4 * (engine.in_flight + 2)
        assert batcher.try_acquire() is None
        batcher.release(first)
        time.sleep(0.2)
        assert batcher._next == 4 * (engine.in_flight + 3)
        token.cancel()
        worker.join(2)
        assert not worker.is_alive()


def test_first_failure_wins_and_wakes_everyone() -> None:
    with (
        NumpyEngine() as engine,
        EncoderService(engine) as service,
        pytest.raises(SlideReadError, match="tile is damaged"),
    ):
        run(service, in_order(100, 8), 3, fail_at=37)


def test_engine_failure_ends_one_stream_only() -> None:
    with NumpyEngine(fail_at=3) as engine, EncoderService(engine) as service:
        with pytest.raises(EngineError, match="device was lost"):
            run(service, in_order(100, 8), 2)
        bag, _ = run(service, in_order(20, 8), 2)
        np.testing.assert_array_equal(bag.features, encoded(range(20)))


def test_a_failing_stream_does_not_disturb_the_others() -> None:
    with NumpyEngine(seconds_a_tile=0.0002) as engine, EncoderService(engine) as service:
        outcomes: dict[int, object] = {}

        def one(number: int) -> None:
            try:
                fail_at = 30 if number % 2 else None
                bag, _ = run(service, in_order(60 + number, 8), 1, fail_at=fail_at)
                outcomes[number] = bag.features
            except SlideReadError as error:
                outcomes[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        for number, outcome in outcomes.items():
            if number % 2:
                assert isinstance(outcome, SlideReadError)
            else:
                np.testing.assert_array_equal(outcome, encoded(range(60 + number)))
        assert len(outcomes) == 6


def test_streams_are_served_in_turn() -> None:
    """A stream with few tiles is not kept waiting by one with many."""
    with NumpyEngine(seconds_a_tile=0.001) as engine, EncoderService(engine) as service:
        done, begun = [0], threading.Event()

        def progress(first: int, *_: object) -> bool:
            done[0] = first
            begun.set()
            return True

        many = threading.Thread(
            target=run, args=(service, in_order(400, 8), 1), kwargs={"on_batch": progress}
        )
        many.start()
        assert begun.wait(60)
        before = done[0]
        run(service, in_order(40, 8), 1)
        served_meanwhile = done[0] - before
        many.join()
        # As many as the few, and what was in buffers already.
        assert served_meanwhile < 200


def test_fewer_tiles_are_taken_once_no_more_are_wanted() -> None:
    with NumpyEngine() as engine, EncoderService(engine) as service:
        token = CancellationToken()
        bag = GrowingBag(tiny.DIM, 1000)

        def sink(first: int, count: int, features: np.ndarray) -> None:
            bag.put(np.arange(first, first + count), features)
            if first >= 8:
                stream.finish()

        with service.open(tiny.TILE_PX, 4, token, sink, total=1000) as stream:
            produce(stream, token=token)
            stats = stream.wait()
        assert 12 <= stats.tiles <= 12 + 4 * 4
        assert bag.encoded == stats.tiles
        np.testing.assert_array_equal(bag.features[: stats.tiles], encoded(range(stats.tiles)))


def test_cancelling_a_stalled_producer_returns_at_once() -> None:
    """A reader that hangs (a dead network share) does not keep the consumer waiting."""
    with NumpyEngine() as engine, EncoderService(engine) as service:
        token = CancellationToken()
        with service.open(tiny.TILE_PX, 4, token, lambda *_: None, total=8) as stream:
            stream.acquire()  # never committed
            threading.Timer(0.1, token.cancel).start()
            with pytest.raises(CancelledError):
                stream.wait()  # for ever, if nothing woke it


def test_closing_the_service_ends_its_streams() -> None:
    with NumpyEngine() as engine:
        service = EncoderService(engine)
        stream = service.open(tiny.TILE_PX, 4, CancellationToken(), lambda *_: None, total=8)
        service.close()
        service.close()
        with pytest.raises(CancelledError, match="closed"):
            stream.wait()
        with pytest.raises(EngineError, match="closed"):
            service.open(tiny.TILE_PX, 4, CancellationToken(), lambda *_: None)


def test_encoding_tiles_at_hand() -> None:
    with NumpyEngine() as engine, EncoderService(engine) as service:
        tiles = np.stack([tile(number) for number in range(21)])
        np.testing.assert_array_equal(service.encode(tiles, 8), encoded(range(21)))


def test_pushed_tiles_of_unknown_number() -> None:
    with NumpyEngine() as engine:
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, CancellationToken())
        for number in range(6):
            slot = batcher.try_acquire()
            assert slot is not None
            slot.rgb[:] = tile(number)
            batcher.commit(slot)
        batcher.finish()
        taken = [batcher.take(), batcher.take()]
        assert [batch.count for batch in taken if batch] == [4, 2]
        assert batcher.take() is None
        assert batcher.acquire() is None


def test_finish_waits_for_a_slot_still_being_written() -> None:
    with NumpyEngine() as engine:
        batcher = TileBatcher(engine, tiny.TILE_PX, 4, CancellationToken())
        slot = batcher.acquire()
        assert slot is not None
        batcher.finish()
        assert batcher.take() is None
        batcher.commit(slot)
        batch = batcher.take()
        assert batch is not None
        assert batch.count == 1


def test_nan_features_name_the_tile() -> None:
    with NumpyEngine() as engine, EncoderService(engine) as service:
        engine._weights = engine._weights * np.float32(np.nan)
        with pytest.raises(EngineError, match="tile 0"):
            run(service, in_order(5, 4), 1)
