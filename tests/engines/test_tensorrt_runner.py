"""Our own logic of running engines, on a card and a TensorRT of numpy: no test of either."""

from __future__ import annotations

import ast
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, Preprocess, Task, TensorSpec
from pathgene_rt.engines.cuda import errors as cuda_errors_module
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.engine import Array, EngineInfo
from pathgene_rt.engines.tensorrt.errors import ForeignPlanError
from pathgene_rt.engines.tensorrt.library import TENSORRT
from pathgene_rt.engines.tensorrt.plan import LoadedPlan
from pathgene_rt.engines.tensorrt.runner import TensorRtRunner
from pathgene_rt.errors import EncodedTileError, EngineError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import grid_edges
from pathgene_rt.heads.run import run_heads
from pathgene_rt.options import EngineOptions
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedLevel, EncodedRegion
from pathgene_rt.streaming.encoder_service import EncoderService
from tests.support import fake_trt_engine as trt
from tests.support.fake_cuda import LOST, FakeDevice, FakeGpu, FakeStream

PX, WIDTH = 8, 4
INPUT, OUTPUT = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
UINT8, FLOAT, INT64 = trt.DataType.UINT8, trt.DataType.FLOAT, trt.DataType.INT64
INFO = EngineInfo("tensorrt", "11.4", "fake", "float16", 1)
WEIGHTS = np.random.default_rng(0).normal(size=(PX * PX * 3, WIDTH)).astype(np.float32)
PER_TILE = 1000

ENCODER = ModelSpec(
    name="encoder",
    architecture="fake",
    inputs=(TensorSpec(name="tiles", dtype="uint8", shape=("n", PX, PX, 3)),),
    outputs=(TensorSpec(name="features", dtype="float32", shape=("n", WIDTH)),),
    onnx_sha256="0" * 64,
    weights_sha256="0" * 64,
    preprocess=Preprocess(tile_px=16),
)
HEAD = ModelSpec(
    name="EGFR",
    architecture="fake",
    inputs=(
        TensorSpec(name="features", dtype="float32", shape=("n", WIDTH)),
        TensorSpec(name="coords", dtype="int64", shape=("n", 2)),
        TensorSpec(name="edges", dtype="int64", shape=(2, "e")),
    ),
    outputs=(
        TensorSpec(name="logits", dtype="float32", shape=(2,)),
        TensorSpec(name="attention", dtype="float32", shape=("n", 1)),
    ),
    onnx_sha256="0" * 64,
    weights_sha256="0" * 64,
    classes=("no", "yes"),
    activation="softmax",
)


def encode(tiles: Array) -> Array:
    return tiles.reshape(len(tiles), -1).astype(np.float32) @ WEIGHTS


def judge(features: Array, coords: Array, edges: Array) -> dict[str, Array]:
    scores = np.exp(features[:, :1] / 1000)
    return {
        "logits": np.array([features.mean(), coords.sum() + edges.sum()], np.float32),
        "attention": (scores / scores.sum()).astype(np.float32),
    }


def encoder_engine(gpu: FakeGpu, most: int = 16) -> trt.FakeEngine:
    shapes = tuple((n, PX, PX, 3) for n in (1, most, most))
    return trt.FakeEngine(
        gpu,
        {"tiles": (INPUT, UINT8), "features": (OUTPUT, FLOAT)},
        [{"tiles": shapes}],
        lambda shapes: {"features": (shapes["tiles"][0], WIDTH)},
        lambda shapes: PER_TILE * shapes["tiles"][0],
        lambda inputs: {"features": encode(inputs["tiles"])},
    )


def head_engine(gpu: FakeGpu) -> trt.FakeEngine:
    def profile(low: int, high: int) -> dict[str, tuple[trt.Shape, trt.Shape, trt.Shape]]:
        return {
            "features": ((low, WIDTH), (high, WIDTH), (high, WIDTH)),
            "coords": ((low, 2), (high, 2), (high, 2)),
            "edges": ((2, 0), (2, high), (2, 8 * high)),
        }

    return trt.FakeEngine(
        gpu,
        {
            "features": (INPUT, FLOAT),
            "coords": (INPUT, INT64),
            "edges": (INPUT, INT64),
            "logits": (OUTPUT, FLOAT),
            "attention": (OUTPUT, FLOAT),
        },
        [profile(1, 10), profile(10, 1000), profile(1000, 100_000)],
        lambda shapes: {"logits": (2,), "attention": (shapes["features"][0], 1)},
        lambda shapes: PER_TILE * shapes["features"][0],
        lambda inputs: judge(**inputs),
    )


class Finishing:
    """What makes the contexts of an engine that is finished on the card."""

    def __init__(self, engine: trt.FakeEngine) -> None:
        self._engine = engine

    def new_context(self) -> trt.FakeContext | None:
        self._engine.gpu.calls.append("its own context")
        return self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )

    def keep(self) -> None:
        self._engine.gpu.calls.append("keep")
        if self._engine.gpu.calls.count("keep") > 1:
            raise EngineError("the disk has gone")


@dataclass
class Card:
    """A card, and runners on it."""

    gpu: FakeGpu
    device: FakeDevice
    steps: int = 0
    finishes: bool = False
    """The library makes contexts and graphs itself (:class:`Finishing`)."""

    def encoder(self, engine: trt.FakeEngine | None = None, **options: int) -> TensorRtRunner:
        asked = EngineOptions(**{"batch": 8, "in_flight": 2, **options})
        return self.runner(engine or encoder_engine(self.gpu), ENCODER, asked)

    def head(self, engine: trt.FakeEngine | None = None, name: str = "EGFR") -> TensorRtRunner:
        asked = EngineOptions(batch=8, in_flight=2)
        return self.runner(engine or head_engine(self.gpu), replace(HEAD, name=name), asked)

    def runner(
        self, engine: trt.FakeEngine, spec: ModelSpec, options: EngineOptions
    ) -> TensorRtRunner:
        made = [engine]

        def load() -> LoadedPlan:
            self.gpu.step("load")
            loaded = made.pop()
            contexts: Any = Finishing(loaded) if self.finishes else None
            return LoadedPlan(TENSORRT, trt.FakeRuntime(self.gpu), loaded, contexts)

        del engine
        return TensorRtRunner(load, spec, INFO, options, self.device)

    def assert_empty(self) -> None:
        """Nothing of ours is on the card, and no context is left on this thread's stack."""
        assert self.gpu.alive == []
        assert self.gpu.depth == 0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module())
    monkeypatch.setattr(cuda_errors_module, "context_failure", lambda: gpu.lost)
    yield Card(gpu, FakeDevice(gpu))
    FakeStream.by_handle.clear()


def tiles(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, PX, PX, 3), np.uint8)


def bag(count: int, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "features": random.normal(size=(count, WIDTH)).astype(np.float32),
        "coords": random.integers(0, 99, (count, 2)),
        "edges": random.integers(0, count, (2, 3 * (count - 1))),
    }


def assert_judged(runner: TensorRtRunner, inputs: dict[str, Array]) -> None:
    runner.submit(inputs)
    found, expected = runner.result(), judge(**inputs)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)


def run(runner: TensorRtRunner, batches: list[Array]) -> list[Array]:
    """Features of each of ``batches``, as many in flight as may be."""
    found = []
    outstanding = 0
    for batch in batches:
        if outstanding == runner.in_flight:
            found.append(runner.result()["features"])
            outstanding -= 1
        runner.submit({"tiles": batch})
        outstanding += 1
    return found + [runner.result()["features"] for _ in range(outstanding)]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("in_flight", [1, 2, 3, 5])
def test_results_come_in_order_and_are_right(card: Card, graphs: bool, in_flight: int):
    card.device.captures_graphs = graphs
    sizes = [8] * 12 + [3, 8, 8, 1, 1, 1, 1, 8, 16, 16, 16, 5, 8]
    batches = [tiles(size, seed) for seed, size in enumerate(sizes)]

    with card.encoder(in_flight=in_flight) as runner:
        found = run(runner, batches)
        assert runner.warnings == ()

    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, encode(batch), rtol=1e-6)
    card.assert_empty()
    assert ("launch graph" in card.gpu.calls) is graphs


def test_a_context_is_bound_again_only_for_another_shape_or_other_memory(card: Card):
    card.device.captures_graphs = False
    with card.encoder(in_flight=1) as runner:
        run(runner, [tiles(8, seed) for seed in range(5)])
        assert Counter(card.gpu.calls)["set device memory"] == 1  # reserved when it was made
        batches = [tiles(3), tiles(3, 1), tiles(8), tiles(16), tiles(8, 2), tiles(8, 3)]
        found = run(runner, batches)
        assert Counter(card.gpu.calls)["set device memory"] == 5
    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, encode(batch), rtol=1e-6)


def test_results_stay_when_the_next_is_taken(card: Card):
    with card.encoder() as runner:
        first, second = run(runner, [tiles(8, 1), tiles(8, 2)])
        run(runner, [tiles(8, 3)])
        np.testing.assert_allclose(first, encode(tiles(8, 1)), rtol=1e-6)
        np.testing.assert_allclose(second, encode(tiles(8, 2)), rtol=1e-6)


def test_two_calls_compute_at_once_and_more_queue(card: Card):
    engine = encoder_engine(card.gpu)
    with card.encoder(engine, in_flight=4) as runner:
        for seed in range(4):
            runner.submit({"tiles": tiles(2, seed)})
        assert len({stream for stream, _ in engine.enqueued}) == 2
        for seed in range(4):
            np.testing.assert_allclose(
                runner.result()["features"], encode(tiles(2, seed)), rtol=1e-6
            )


def test_the_third_call_of_a_shape_is_captured_and_launched_from_then_on(card: Card):
    engine = encoder_engine(card.gpu)
    with card.encoder(engine, in_flight=1) as runner:
        counts = []
        for seed in range(5):
            np.testing.assert_allclose(
                run(runner, [tiles(8, seed)])[0], encode(tiles(8, seed)), rtol=1e-6
            )
            counts.append(Counter(card.gpu.calls)["launch graph"])
    assert counts == [0, 0, 1, 2, 3]
    assert Counter(card.gpu.calls)["capture"] == 1
    assert len(engine.enqueued) == 2


def test_graphs_are_dropped_when_a_larger_call_moves_the_memory(card: Card):
    with card.encoder(in_flight=1) as runner:
        run(runner, [tiles(8, seed) for seed in range(4)])
        batches = [tiles(16, 9), *(tiles(8, seed) for seed in range(4))]
        found = run(runner, batches)
    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, encode(batch), rtol=1e-6)
    assert Counter(card.gpu.calls)["capture"] == 2


@pytest.mark.parametrize("what", ["capture", "context"])
def test_without_graphs_calls_go_on_and_a_warning_says_so(card: Card, what: str):
    engine = encoder_engine(card.gpu)
    if what == "capture":
        engine.captures = False
    else:
        engine.most_contexts = 2
    batches = [tiles(8, seed) for seed in range(8)]
    with card.encoder(engine) as runner:
        found = run(runner, batches)
        why = {"capture": "not permitted when stream is capturing", "context": "out of memory"}
        for text in runner.warnings:
            assert "runs without CUDA graphs" in text and why[what] in text
        assert len(runner.warnings) == 1
    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, encode(batch), rtol=1e-6)
    assert "launch graph" not in card.gpu.calls
    card.assert_empty()


def test_an_engine_that_is_finished_on_the_card_makes_its_own_contexts_and_graphs(card: Card):
    card.finishes = True
    with card.encoder() as runner:
        found = run(runner, [tiles(8, seed) for seed in range(8)])
        assert runner.warnings == ()
    for seed, features in enumerate(found):
        np.testing.assert_allclose(features, encode(tiles(8, seed)), rtol=1e-6)
    calls = Counter(card.gpu.calls)
    assert calls["its own context"] == calls["drop context"] == 2 and "capture" not in calls
    assert calls["keep"] == 2  # once it was ready, and at the end, however that went
    dropped = [call for call in card.gpu.calls if call.startswith(("drop", "keep"))]
    assert dropped[1:] == [*["drop context"] * 2, "keep", "drop engine", "drop runtime"]
    card.assert_empty()


def test_contexts_go_before_the_engine_and_the_engine_before_the_runtime(card: Card):
    with card.encoder() as runner:
        run(runner, [tiles(8, seed) for seed in range(8)])
    dropped = [call for call in card.gpu.calls if call.startswith("drop")]
    assert dropped == ["drop context"] * 4 + ["drop engine", "drop runtime"]
    assert card.gpu.calls.index("drop context") > card.gpu.calls.index("close graph")


def construct_and_run(card: Card, spec: ModelSpec) -> None:
    """A runner's life, closing what could be made; ``card.steps`` are those before that."""
    with card.encoder() if spec is ENCODER else card.head() as runner:
        for seed in range(5):
            if spec is ENCODER:
                run(runner, [tiles(8, seed), tiles(8, seed + 9)])
            else:
                with runner.holding((inputs := bag(12, seed))["features"]):
                    assert_judged(runner, inputs)
        card.steps = card.gpu.steps


@pytest.mark.parametrize("spec", [ENCODER, HEAD])
def test_everything_is_freed_whichever_step_fails(card: Card, spec: ModelSpec):
    construct_and_run(card, spec)
    steps = card.gpu.steps
    outcomes: Counter[str] = Counter()
    for number in range(1, steps + 1):
        gpu = card.gpu = card.device.gpu = FakeGpu()
        gpu.fail_at_step(number)
        try:
            construct_and_run(card, spec)
            outcomes["went on"] += 1
        except EngineError as error:
            assert "fake cannot" in str(error) and "made to" in str(error)
            outcomes["raised"] += 1
        assert gpu.failed, number
        assert gpu.alive == [], (number, gpu.calls)
        assert gpu.depth == 0
    # Where a graph cannot be made, a bag not be placed on the card or waiting fails again later.
    assert outcomes["raised"] > steps * 0.6


@pytest.mark.parametrize("spec", [ENCODER, HEAD])
def test_a_lost_card_ends_the_slide_and_every_later_call(
    card: Card, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
):
    construct_and_run(card, spec)
    for number in range(1, card.steps + 1):
        gpu = card.gpu = card.device.gpu = FakeGpu()
        monkeypatch.setattr(cuda_errors_module, "context_failure", lambda gpu=gpu: gpu.lost)
        gpu.lose_at_step(number)
        with pytest.raises(DeviceLostError, match=r"fake was lost .*700.*open it again"):
            construct_and_run(card, spec)
        assert gpu.depth == 0


def test_what_a_lost_card_says_is_said_again(card: Card):
    with card.encoder() as runner:
        runner.submit({"tiles": tiles(8)})
        card.gpu.lost = LOST
        with pytest.raises(DeviceLostError, match=LOST[:20]):
            runner.result()
        before = len(card.gpu.calls)
        with pytest.raises(DeviceLostError, match="close the bundle and open it again"):
            runner.submit({"tiles": tiles(8)})
        assert len(card.gpu.calls) == before


def test_running_out_of_memory_halves_calls_once(card: Card):
    engine = encoder_engine(card.gpu)
    with card.encoder(engine) as runner:
        (first,) = run(runner, [tiles(8, 1)])
        engine.out_of_memory = lambda shapes: shapes["tiles"][0] > 4
        batches = [tiles(8, 2), tiles(8, 3), tiles(7, 4), tiles(3, 5), tiles(8, 6)]
        found = run(runner, batches)
        (warning,) = runner.warnings
    np.testing.assert_allclose(first, encode(tiles(8, 1)), rtol=1e-6)
    for batch, features in zip(batches, found, strict=True):
        np.testing.assert_allclose(features, encode(batch), rtol=1e-6)
    assert "out of GPU memory with 8 tiles" in warning and "4 tiles a call" in warning
    assert max(shapes["tiles"][0] for _, shapes in engine.enqueued[1:]) == 4


def test_running_out_of_memory_again_is_an_error_that_says_what_to_do(card: Card):
    engine = encoder_engine(card.gpu)
    with card.encoder(engine) as runner:
        engine.out_of_memory = lambda shapes: shapes["tiles"][0] > 2
        with pytest.raises(DeviceMemoryError, match=r"halved already.*close.*--batch 2"):
            runner.submit({"tiles": tiles(8)})
        # The engine itself goes on working.
        (features,) = run(runner, [tiles(2)])
        np.testing.assert_allclose(features, encode(tiles(2)), rtol=1e-6)
    card.assert_empty()


def test_a_head_that_does_not_fit_says_so(card: Card):
    engine = head_engine(card.gpu)
    engine.out_of_memory = lambda shapes: shapes["features"][0] > 50
    with card.head(engine) as runner:
        with pytest.raises(DeviceMemoryError, match=r"out of memory.*close what else uses the GPU"):
            runner.submit(bag(60))
        assert_judged(runner, bag(40))
    card.assert_empty()


def test_little_free_memory_means_smaller_calls_from_the_start(card: Card):
    card.gpu.free = int((2 * 4 * PER_TILE + 2 * 4 * (PX * PX * 3 + 4 * WIDTH)) / 0.75) + 200
    engine = encoder_engine(card.gpu)
    with card.encoder(engine) as runner:
        (warning,) = runner.warnings
        assert "8 tiles a call do not fit" in warning and "4 tiles a call" in warning
        (features,) = run(runner, [tiles(8)])
        np.testing.assert_allclose(features, encode(tiles(8)), rtol=1e-6)
    assert [shapes["tiles"][0] for _, shapes in engine.enqueued] == [4, 4]
    card.assert_empty()


def test_memory_that_is_gone_when_it_is_taken_halves_calls_too(
    card: Card, monkeypatch: pytest.MonkeyPatch
):
    card.gpu.free = 2 * 4 * PER_TILE + 3 * 8 * (PX * PX * 3 + 4 * WIDTH)
    monkeypatch.setattr(card.device, "memory_info", lambda: (1 << 30, 1 << 30), raising=False)
    with card.encoder() as runner:
        (warning,) = runner.warnings
        assert "out of GPU memory with 8 tiles" in warning and "4 tiles a call" in warning
        (features,) = run(runner, [tiles(8)])
        np.testing.assert_allclose(features, encode(tiles(8)), rtol=1e-6)
    card.assert_empty()
    card.gpu.free = 2 * PER_TILE
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        card.encoder()
    card.assert_empty()


def test_no_room_for_a_tile_is_an_error(card: Card):
    card.gpu.free = PER_TILE
    with pytest.raises(DeviceMemoryError, match="one tile needs"):
        card.encoder()
    card.assert_empty()


def test_larger_calls_than_the_engine_was_built_for_are_split(card: Card):
    with card.encoder(encoder_engine(card.gpu, most=6), batch=16) as runner:
        batch = tiles(16)
        np.testing.assert_allclose(run(runner, [batch])[0], encode(batch), rtol=1e-6)
        assert runner.warnings == ()


@pytest.mark.parametrize("count", [1, 9, 10, 11, 999, 1000, 1001, 5000])
def test_a_head_takes_bags_of_any_size_by_the_profile_that_holds_them(card: Card, count: int):
    with card.head() as runner:
        assert_judged(runner, bag(count))
        assert_judged(runner, bag(3))
        assert_judged(runner, bag(count, seed=1))
    card.assert_empty()


def test_a_bag_that_no_profile_holds_is_named_with_the_profiles(card: Card):
    with card.head() as runner:
        with pytest.raises(EngineError, match=r"features 100001x4.*features 1000x4 to 100000x4"):
            runner.submit(bag(100_001))
        assert_judged(runner, bag(5))


def test_a_head_gives_the_memory_of_large_bags_back(card: Card, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pathgene_rt.engines.tensorrt.runner.KEPT_BYTES", 20 * PER_TILE)
    with card.head() as runner:
        assert_judged(runner, bag(10))
        small = card.gpu.free
        assert_judged(runner, bag(2000))
        assert card.gpu.free >= small


def test_heads_share_one_copy_of_the_bag(card: Card):
    inputs = bag(500)
    with card.head(name="EGFR") as one, card.head(name="TP53") as other:
        with one.holding(inputs["features"]), other.holding(inputs["features"]):
            assert_judged(one, inputs)
            shared = Counter(card.gpu.calls)["upload"]
            assert_judged(other, inputs)
        assert Counter(card.gpu.calls)["upload"] - shared == 2  # coords and edges
        # Not held any more, so what has changed since is seen.
        inputs["features"] += 1
        with one.holding(inputs["features"]):
            assert_judged(one, inputs)
        inputs["features"] += 1
        assert_judged(other, inputs)
    card.assert_empty()


def test_a_bag_whose_copy_failed_is_copied_again(card: Card, monkeypatch: pytest.MonkeyPatch):
    inputs = bag(50)

    def broken(*_: object) -> None:
        raise RuntimeError("the bus is broken")

    with card.head() as runner, runner.holding(inputs["features"]):
        with monkeypatch.context() as patch:
            patch.setattr(card.device, "upload", broken)
            with pytest.raises(EngineError, match="the bus is broken"):
                runner.submit(inputs)
        assert_judged(runner, inputs)
    card.assert_empty()


def test_a_bag_that_leaves_no_room_for_the_head_moves_to_the_computers_memory(
    card: Card, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pathgene_rt.engines.tensorrt.runner.KEPT_BYTES", 0)
    inputs = bag(3000)
    outputs = sum(array.nbytes for array in judge(**inputs).values())
    need = sum(array.nbytes for array in inputs.values()) + outputs + 3000 * PER_TILE
    with card.head(name="EGFR") as one, card.head(name="TP53") as other:
        card.gpu.free = need
        with one.holding(inputs["features"]):
            assert_judged(one, inputs)
            uploads = Counter(card.gpu.calls)["upload"]
            card.gpu.free -= 10_000  # another program takes it
            assert_judged(other, inputs)
            assert_judged(one, inputs)
            assert Counter(card.gpu.calls)["upload"] == uploads + 4  # coords and edges
            assert card.gpu.free == need - 10_000
    card.assert_empty()


@pytest.mark.parametrize("what", ["dtype", "missing", "more", "location"])
def test_an_engine_of_another_graph_is_built_again(card: Card, what: str):
    engine = encoder_engine(card.gpu)
    if what == "dtype":
        engine.tensors["features"] = (OUTPUT, trt.DataType.HALF)
    elif what == "missing":
        engine.tensors = {"pixels": (INPUT, UINT8), "features": (OUTPUT, FLOAT)}
    elif what == "more":
        engine.tensors["noise"] = (INPUT, FLOAT)
    else:
        engine.location = trt.TensorLocation.HOST
    with pytest.raises(ForeignPlanError):
        card.encoder(engine)
    card.assert_empty()


def test_input_buffers_go_round_and_outlive_the_engine(card: Card):
    runner = card.encoder()
    made = [runner.input_buffer("tiles", (8, PX, PX, 3)) for _ in range(4)]
    assert Counter(card.gpu.calls)["make pinned memory"] - 2 == 4
    view = made[0][3, :2]
    del made
    again = [runner.input_buffer("tiles", (8, PX, PX, 3)) for _ in range(4)]
    # The three that nobody looks into any more, and a new one.
    assert Counter(card.gpu.calls)["make pinned memory"] - 2 == 5
    assert not any(np.shares_memory(view, buffer) for buffer in again)
    again[0][:] = tiles(8)
    np.testing.assert_allclose(run(runner, [again[0]])[0], encode(tiles(8)), rtol=1e-6)
    smaller = runner.input_buffer("tiles", (2, PX, PX, 3))
    runner.close()
    card.assert_empty()
    again[1][:], smaller[:], view[:] = 1, 2, 3
    with pytest.raises(EngineError, match="closed"):
        runner.input_buffer("tiles", (2, PX, PX, 3))
    with pytest.raises(EngineError, match="has no input 'pixels'"):
        card.encoder().input_buffer("pixels", (1,))


def test_close_waits_for_the_result_that_another_thread_takes(card: Card):
    for _ in range(20):
        runner = card.encoder()
        for seed in range(2):
            runner.submit({"tiles": tiles(8, seed)})
        taken: list[Array] = []

        def take(runner: TensorRtRunner = runner, taken: list[Array] = taken) -> None:
            try:
                while True:
                    taken.append(runner.result()["features"])
            except EngineError as error:
                assert "closed" in str(error) or "outstanding" in str(error)

        thread = threading.Thread(target=take)
        thread.start()
        runner.close()
        thread.join()
        for seed, features in enumerate(taken):
            np.testing.assert_allclose(features, encode(tiles(8, seed)), rtol=1e-6)
        card.assert_empty()


class FakeDecoder:
    """Decodes an encoded tile that is the grid's, and uncompressed."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.closed = False

    def decode_into(self, batch: EncodedBatch, address: int, stream: FakeStream) -> None:
        if any(region.streams[0] == b"damaged" for region in batch.regions):
            raise EncodedTileError("tile 3 cannot be decoded")
        pixels = np.concatenate([np.frombuffer(r.streams[0], np.uint8) for r in batch.regions])
        self._device.upload(address, pixels, stream)

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def stored(pixels: Array) -> EncodedBatch:
    level = EncodedLevel("jpeg", (PX, PX), (PX, PX), (255, 255, 255))
    regions = [EncodedRegion(level, (0, 0), PX, {0: tile.tobytes()}) for tile in pixels]
    return EncodedBatch(regions, PX)


def test_encoded_tiles_are_decoded_into_the_engines_input(
    card: Card, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pathgene_rt.engines.tensorrt.runner.TileDecoder", FakeDecoder)
    engine = encoder_engine(card.gpu)
    with card.encoder(engine, in_flight=3) as runner:
        for seed in range(3):
            runner.submit_encoded(stored(tiles(8, seed)))
        for seed in range(3):
            np.testing.assert_allclose(
                runner.result()["features"], encode(tiles(8, seed)), rtol=1e-6
            )
        damaged = stored(tiles(2))
        damaged.regions[1].streams[0] = b"damaged"
        made = Counter(card.gpu.calls)["make memory"]
        with pytest.raises(EncodedTileError):
            runner.submit_encoded(damaged)
        runner.submit_encoded(stored(tiles(8, 4)))
        np.testing.assert_allclose(runner.result()["features"], encode(tiles(8, 4)), rtol=1e-6)
        assert Counter(card.gpu.calls)["make memory"] == made
        engine.out_of_memory = lambda shapes: shapes["tiles"][0] > 4
        runner.submit_encoded(stored(tiles(7, 5)))
        np.testing.assert_allclose(runner.result()["features"], encode(tiles(7, 5)), rtol=1e-6)
        decoder = runner.decoder
    assert decoder.closed
    card.assert_empty()


def test_slides_in_several_threads_share_the_engine(card: Card):
    slides = [tiles(50 + 7 * seed, seed) for seed in range(3)]
    found: dict[int, Array] = {}
    with card.encoder() as runner, EncoderService(runner) as service:

        def encode_slide(number: int) -> None:
            found[number] = service.encode(slides[number], 8)

        threads = [threading.Thread(target=encode_slide, args=(n,)) for n in range(len(slides))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, slide in enumerate(slides):
        np.testing.assert_allclose(found[number], encode(slide), rtol=1e-6)
    card.assert_empty()


def test_a_panel_of_heads_copies_the_bag_once(card: Card):
    side, count = 20, 400
    xy = np.stack([np.arange(count) % side, np.arange(count) // side], axis=1) * 16
    features = bag(count)["features"]
    slide = FeatureBag("slide", features, xy.astype(np.int32), 16, 0.5, 16, None)
    names = ("ALK", "EGFR", "TP53")
    with ExitStack() as stack:
        heads = [
            (HeadSpec(model=replace(HEAD, name=name), file=name, task=Task(kind="mutation")), made)
            for name in names
            if (made := stack.enter_context(card.head(name=name)))
        ]
        results = run_heads(heads, slide)
        # Each head has coords and edges of its own, 16 bytes a tile and 16 an edge.
        assert Counter(card.gpu.calls)["upload"] == 1 + 2 * len(names)
    expected = judge(features, slide.coords, grid_edges(slide.coords))
    for name in names:
        np.testing.assert_allclose(results[name].logits, expected["logits"], rtol=1e-5)
        np.testing.assert_allclose(results[name].attention, expected["attention"], rtol=1e-5)
    card.assert_empty()


@pytest.mark.parametrize("stub", ["tensorrt10_3", "tensorrt10", "tensorrt11"])
def test_the_stand_ins_have_no_name_that_the_bindings_lack(shared: Path, stub: str):
    tree = ast.parse((shared / "tensorrt" / "typings" / stub / "tensorrt/__init__.pyi").read_text())
    declared: dict[str, set[str]] = {}
    for item in tree.body:
        if isinstance(item, ast.ClassDef):
            methods = {part.name for part in item.body if isinstance(part, ast.FunctionDef)}
            values = [part.target for part in item.body if isinstance(part, ast.AnnAssign)]
            declared[item.name] = methods | {ast.unparse(value) for value in values}
    for kind, name in ((trt.FakeEngine, "ICudaEngine"), (trt.FakeContext, "IExecutionContext")):
        assert {key for key in vars(kind) if not key.startswith("_")} <= declared[name]
    for members in (
        trt.ExecutionContextAllocationStrategy,
        trt.TensorIOMode,
        trt.TensorLocation,
        trt.DataType,
    ):
        assert set(members.__members__) <= declared[members.__name__]
