"""Out of memory in the middle of a slide, with a runner that computes in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.bundle.spec import ModelSpec, Preprocess, TensorSpec
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.halving import HalvingRunner, Work
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.runner_base import BusySpan
from pathgene_rt.errors import EngineError

SPEC = ModelSpec(
    name="encoder",
    architecture="fake",
    inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", 2)),),
    outputs=(TensorSpec(name="features", dtype="float32", shape=("n", 1)),),
    onnx_sha256="0" * 64,
    weights_sha256="0" * 64,
    preprocess=Preprocess(tile_px=16),
)


class Runner(HalvingRunner[Array]):
    """Runs out of memory beyond ``room`` tiles: when started, or when waited for."""

    def __init__(self, in_flight: int = 2, *, late: bool = False) -> None:
        super().__init__(SPEC, EngineInfo("fake", "1", "fake", "float32", 1), in_flight)
        self.room = 1000
        self.late = late
        self.calls: list[int] = []
        self.spans: list[BusySpan | None] = []
        self.running = 0
        self.breaks: Exception | None = None

    def _start_call(self, work: Work, span: BusySpan | None) -> Array:
        assert isinstance(work, dict)
        tiles = work["tiles"]
        if self.breaks is not None:
            raise self.breaks
        if not self.late:
            self._fit(tiles)
        self.calls.append(len(tiles))
        self.spans.append(span)
        self.running += 1
        assert self.running <= self.in_flight
        return tiles

    def _wait_call(self, call: Array) -> dict[str, Array]:
        self.running -= 1
        self._fit(call)
        return {"features": call.sum(axis=1, keepdims=True).astype(np.float32)}

    def _free_calls(self, running: list[Array]) -> None:
        assert len(running) == self.running
        self.running = 0

    def _fit(self, tiles: Array) -> None:
        if len(tiles) > self.room:
            raise DeviceMemoryError("the card is full")


def tiles(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 99, (count, 2), np.uint8)


def results(runner: Runner, batches: list[Array]) -> Iterator[Array]:
    waiting = 0
    for batch in batches:
        if waiting == runner.in_flight:
            yield runner.result()["features"]
            waiting -= 1
        runner.submit({"tiles": batch})
        waiting += 1
    for _ in range(waiting):
        yield runner.result()["features"]


@given(
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=8),
    in_flight=st.integers(1, 4),
    full_at=st.integers(0, 8),
    late=st.booleans(),
)
def test_results_are_whole_and_in_order_whenever_memory_runs_out(
    sizes: list[int], in_flight: int, full_at: int, late: bool
):
    runner = Runner(in_flight, late=late)
    batches = [tiles(size, seed) for seed, size in enumerate(sizes)]

    def given_batches() -> Iterator[Array]:
        for number, batch in enumerate(batches):
            if number == full_at:
                runner.room = max(8, (max(sizes) + 1) // 2)
            yield batch

    found = list(results(runner, given_batches()))  # type: ignore[arg-type]
    for batch, features in zip(batches, found, strict=True):
        assert np.array_equal(features[:, 0], batch.sum(axis=1))
    assert len(runner.warnings) <= 1
    runner.close()


def test_calls_in_flight_when_memory_runs_out_count_as_one_time():
    runner = Runner(late=True)
    runner.room = 4
    found = list(results(runner, [tiles(8, 1), tiles(8, 2), tiles(8, 3)]))
    assert [len(features) for features in found] == [8, 8, 8]
    assert runner.calls == [8, 8, 4, 4, 4, 4, 4, 4]
    (warning,) = runner.warnings
    assert warning == (
        "fake engine of encoder: out of GPU memory with 8 tiles (the card is full); it computes "
        "4 tiles a call from then on"
    )


@pytest.mark.parametrize("late", [True, False])
def test_the_second_time_is_an_error(late: bool):
    runner = Runner(late=late)
    runner.room = 3
    with pytest.raises(DeviceMemoryError, match=r"the card is full, with 4 .*--batch 2"):
        list(results(runner, [tiles(8)]))
    runner.room = 4
    list(results(runner, [tiles(8)]))
    runner.close()


def test_only_the_last_limit_is_warned_of():
    runner = Runner()
    runner.warn("something else")
    runner.take_at_most(6, "there is little memory")
    runner.room = 3
    list(results(runner, [tiles(8)]))
    other, limit = runner.warnings
    assert other == "something else" and "3 tiles a call" in limit
    runner.close()


def test_one_tile_cannot_be_halved():
    runner = Runner()
    runner.room = 0
    with pytest.raises(DeviceMemoryError, match="the card is full; close what else uses the GPU"):
        runner.submit({"tiles": tiles(1)})
    assert runner.warnings == ()


def test_other_errors_pass_and_leave_nothing_running():
    runner = Runner()
    runner.breaks = EngineError("the graph is broken")
    with pytest.raises(EngineError, match="the graph is broken"):
        runner.submit({"tiles": tiles(8)})
    assert runner.running == 0
    runner.breaks = None
    runner.take_at_most(3, "there is little memory")
    runner.submit({"tiles": tiles(8)})
    runner.breaks = EngineError("the graph is broken")
    with pytest.raises(EngineError, match="the graph is broken"):
        runner.result()
    assert runner.running == 0
    runner.close()


def test_a_submission_in_parts_is_busy_until_its_result():
    runner = Runner()
    runner.submit({"tiles": tiles(4)})
    assert runner.spans[0] is not None
    runner.result()
    runner.take_at_most(3, "there is little memory")
    runner.submit({"tiles": tiles(8)})
    runner.result()
    assert runner.spans[1:] == [None, None, None]
    before = runner.busy.seconds
    assert runner.busy.seconds == before
    runner.close()


def test_closing_waits_for_what_runs_and_forgets_the_rest():
    runner = Runner()
    runner.take_at_most(3, "there is little memory")
    runner.submit({"tiles": tiles(8)})
    runner.submit({"tiles": tiles(8)})
    runner.close()
    assert runner.running == 0
    assert runner.calls == [3, 3]
