"""Both backends behind the engine contract: results, order, errors, closing, the choice."""

from __future__ import annotations

import importlib
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.engine import BusyClock
from pathgene_rt.engines.registry import EngineFactory, choose, load_backend
from pathgene_rt.engines.runner_base import ALIGNMENT, BusySpan
from pathgene_rt.errors import EngineError, EngineUnavailableError, UsageError
from pathgene_rt.options import EngineOptions
from tests.support import tiny_models as tiny

BACKENDS = [name for name, _ in registry.BACKENDS]
WEIGHTS = tiny.encoder_weights()


@pytest.fixture(params=BACKENDS)
def backend(request):
    found = load_backend(request.param)
    availability = found.probe()
    if not availability.available:
        pytest.skip(f"{request.param}: {availability.reason}")
    return found


@pytest.fixture
def encoder(backend):
    with create(backend) as engine:
        yield engine


def create(backend, model: bytes | None = None, spec: ModelSpec | None = None, **options):
    model = tiny.tiny_encoder_onnx() if model is None else model
    spec = spec or tiny.encoder_spec(model)
    options = {"in_flight": 2, **options}
    return backend.create(model, spec, EngineOptions(**options), "float32", None)


def tiles(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, tiny.TILE_PX, tiny.TILE_PX, 3), dtype=np.uint8)


def picky_model(rows: int) -> tuple[bytes, ModelSpec]:
    """A graph that takes bags of any size and fails, while running, unless n is ``rows``."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["features", "shape"], ["rows"]),
            helper.make_node("ReduceSum", ["rows"], ["logits"], keepdims=0),
        ],
        "picky",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([rows, 4], np.int64), "shape")],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    spec = ModelSpec(
        name="picky",
        architecture="picky",
        inputs=(TensorSpec(name="features", dtype="float32", shape=("n", 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1,)),),
        onnx_sha256="0" * 64,
        weights_sha256="0" * 64,
    )
    return model, spec


@pytest.mark.parametrize("n", [1, 3, 16, 40])
def test_features_are_those_of_numpy(encoder, n):
    given = tiles(n)
    encoder.submit({"tiles": given})
    features = encoder.result()["features"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, tiny.encode(given, WEIGHTS), atol=1e-5)


def test_results_come_in_the_order_of_submission(encoder):
    # The first is by far the largest: with a core for each it ends last.
    batches = [tiles(n, seed=n) for n in (64, 1, 32, 2, 7, 1)]
    results = []
    for number, given in enumerate(batches):
        if number >= encoder.in_flight:
            results.append(encoder.result()["features"])
        encoder.submit({"tiles": given})
    results += [encoder.result()["features"] for _ in range(encoder.in_flight)]
    for given, features in zip(batches, results, strict=True):
        np.testing.assert_allclose(features, tiny.encode(given, WEIGHTS), atol=1e-5)


def test_a_result_stays_valid_while_others_are_submitted(encoder):
    given = tiles(4, seed=1)
    encoder.submit({"tiles": given})
    features = encoder.result()["features"]
    for seed in range(encoder.in_flight):
        encoder.submit({"tiles": tiles(4, seed=2 + seed)})
    encoder.close()
    np.testing.assert_allclose(features, tiny.encode(given, WEIGHTS), atol=1e-5)


def test_input_buffers_are_aligned_and_of_the_inputs_type(encoder):
    for n in (1, 5):
        buffer = encoder.input_buffer("tiles", (n, tiny.TILE_PX, tiny.TILE_PX, 3))
        assert buffer.dtype == np.uint8
        assert buffer.ctypes.data % ALIGNMENT == 0
        buffer[:] = tiles(n)
        encoder.submit({"tiles": buffer})
        expected = tiny.encode(tiles(n), WEIGHTS)
        np.testing.assert_allclose(encoder.result()["features"], expected, atol=1e-5)
    with pytest.raises(EngineError, match="no input 'pixels'; it has tiles"):
        encoder.input_buffer("pixels", (1,))


def test_arrays_that_are_read_only_or_unaligned_work(encoder):
    memory = np.zeros(tiles(2).nbytes + 1, np.uint8)
    given = memory[1:].reshape(tiles(2).shape)
    given[:] = tiles(2)
    given.flags.writeable = False
    encoder.submit({"tiles": given})
    features = encoder.result()["features"]
    np.testing.assert_allclose(features, tiny.encode(given, WEIGHTS), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "takes tiles, it was given -"),
        ({"tiles": tiles(1), "more": tiles(1)}, "it was given tiles, more"),
        ({"tiles": tiles(1).astype(np.float32)}, r"uint8 \[n, 64, 64, 3\], it was given float32"),
        ({"tiles": tiles(1)[:, :32]}, r"it was given uint8 \[1, 32, 64, 3\]"),
        ({"tiles": tiles(1)[0]}, r"it was given uint8 \[64, 64, 3\]"),
        ({"tiles": tiles(0)}, r"it was given uint8 \[0, 64, 64, 3\]"),
        ({"tiles": tiles(1)[:, ::-1]}, "contiguous"),
    ],
)
def test_wrong_inputs_are_refused_before_the_native_call(encoder, inputs, message):
    with pytest.raises(EngineError, match=message):
        encoder.submit(inputs)
    assert encoder.busy.seconds == 0
    encoder.submit({"tiles": tiles(1)})
    assert encoder.result()["features"].shape == (1, tiny.DIM)


def test_axes_of_one_name_must_have_one_length(backend):
    model = tiny.tiny_head_onnx(coords=True)
    spec = tiny.head_spec("egfr", model).model
    features = np.ones((5, tiny.DIM), np.float32)
    with create(backend, model, spec) as head:
        with pytest.raises(EngineError, match=r"coords as contiguous int64 \[n, 2\]"):
            head.submit({"features": features, "coords": np.zeros((4, 2), np.int64)})
        head.submit({"features": features, "coords": np.zeros((5, 2), np.int64)})
        assert head.result()["attention"].shape == (5, 1)


@pytest.mark.parametrize("n", [1, 2, 300])
def test_heads_take_bags_of_any_size(backend, n):
    model = tiny.tiny_head_onnx(seed=7)
    spec = tiny.head_spec("egfr", model).model
    features = np.random.default_rng(n).standard_normal((n, tiny.DIM)).astype(np.float32)
    logits, attention = tiny.run_head(features, tiny.head_weights(tiny.DIM, 2, 7))
    with create(backend, model, spec) as head:
        head.submit({"features": features})
        outputs = head.result()
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(outputs["attention"], attention, atol=1e-6)


def test_no_more_submissions_than_in_flight_and_no_result_without_one(backend):
    with create(backend, in_flight=3) as engine:
        assert engine.in_flight == 3
        with pytest.raises(EngineError, match="no submission outstanding"):
            engine.result()
        for _ in range(3):
            engine.submit({"tiles": tiles(2)})
        with pytest.raises(EngineError, match="has 3 submissions outstanding"):
            engine.submit({"tiles": tiles(2)})
        for _ in range(3):
            assert engine.result()["features"].shape == (2, tiny.DIM)


def test_closing_ends_the_engine_and_the_clock(backend):
    engine = create(backend)
    engine.submit({"tiles": tiles(64)})
    engine.submit({"tiles": tiles(64)})
    engine.close()
    engine.close()
    seconds = engine.busy.seconds
    assert seconds > 0
    assert engine.busy.seconds == seconds
    for call in (engine.result, lambda: engine.submit({"tiles": tiles(1)})):
        with pytest.raises(EngineError, match="is closed"):
            call()


def test_closing_from_another_thread_comes_after_the_result(backend):
    engine = create(backend)
    engine.submit({"tiles": tiles(64)})
    engine.submit({"tiles": tiles(64)})
    closer = threading.Thread(target=engine.close)
    closer.start()
    try:
        features = engine.result()["features"]
        assert features.shape == (64, tiny.DIM)
    except EngineError as error:
        assert "is closed" in str(error)
    closer.join(10)
    assert not closer.is_alive()


def test_an_end_is_told_before_its_result_is_taken(backend):
    with create(backend) as engine:
        told = threading.Event()
        engine.tell_ends(told.set)
        assert engine.ended
        engine.submit({"tiles": tiles(64)})
        assert told.wait(10)
        assert engine.ended
        assert engine.result()["features"].shape == (64, tiny.DIM)


def test_a_failing_run_is_one_line_and_the_next_one_works(backend):
    model, spec = picky_model(7)
    with create(backend, model, spec) as engine:
        engine.submit({"features": np.ones((5, 4), np.float32)})
        engine.submit({"features": np.ones((7, 4), np.float32)})
        with pytest.raises(EngineError, match=f"{backend.name} cannot run picky: ") as caught:
            engine.result()
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None
        assert float(engine.result()["logits"]) == 28
        seconds = engine.busy.seconds
        assert engine.busy.seconds == seconds  # the clock does not run on after a failure


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x08\x09"])
def test_a_graph_that_is_none_is_an_engine_error(backend, model):
    with pytest.raises(EngineError, match=f"{backend.name} cannot compile ") as caught:
        create(backend, model, tiny.encoder_spec(model))
    assert "\n" not in str(caught.value)


def test_a_graph_with_an_unknown_operator_is_an_engine_error(backend):
    parsed = onnx.load_from_string(tiny.tiny_encoder_onnx())
    parsed.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match="NoSuchOperator"):
        create(backend, parsed.SerializeToString())


def test_threads_are_those_asked_for(backend):
    with create(backend, threads=1) as engine:
        assert engine.info.threads == 1
        assert engine.info.backend == backend.name
        assert engine.device == engine.info.device != ""


def test_a_precision_that_is_not_native_is_refused(backend):
    model = tiny.tiny_encoder_onnx()
    with pytest.raises(EngineUnavailableError, match="int8"):
        backend.create(model, tiny.encoder_spec(model), EngineOptions(), "int8", None)


def test_bfloat16_keeps_the_pixels_exact():
    """Pixels that round to levels come out as in float32, whatever the network's precision."""
    openvino = load_backend("openvino")
    if "bfloat16" not in openvino.probe().precisions:
        pytest.skip("this CPU has no native bfloat16")
    width = 16 * 16 * 3
    names = ["cast", "scaled", "raised", "levels", "flat"]
    nodes = [
        helper.make_node("Cast", ["tiles"], [names[0]], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [names[0], "weights"], [names[1]]),
        helper.make_node("Add", [names[1], "half"], [names[2]]),
        helper.make_node("Floor", [names[2]], [names[3]]),
        helper.make_node("Reshape", [names[3], "shape"], [names[4]]),
        helper.make_node("MatMul", [names[4], "ones"], ["features"]),
    ]
    # Sixteenths: every engine's float32 sums are exact, so that it must round as numpy does.
    mix = np.array([[11, 2, 5], [3, 9, 5], [2, 5, 6]], np.float32) / 16
    constants = {
        "weights": mix,
        "half": np.float32(0.5),
        "shape": np.array([0, width], np.int64),
        "ones": np.eye(width, dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", 16, 16, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    given = np.random.default_rng(5).integers(128, 256, (20, 16, 16, 3), dtype=np.uint8)
    expected = np.floor(given.astype(np.float32) @ mix + np.float32(0.5)).reshape(20, width)
    spec = tiny.encoder_spec(model, tile_px=16, dim=width)
    with openvino.create(model, spec, EngineOptions(in_flight=2), "bfloat16", None) as engine:
        engine.submit({"tiles": given})
        np.testing.assert_array_equal(engine.result()["features"], expected)


class Fake:
    """A backend that is as available as the test says."""

    on_gpu = False
    honours_tensorrt_options = False

    def __init__(self, name: str, availability: Availability) -> None:
        self.name = name
        self._availability = availability

    def probe(self) -> Availability:
        return self._availability


@pytest.fixture
def fakes(monkeypatch):
    def put(*found: Fake) -> None:
        known = {fake.name: fake for fake in found}
        monkeypatch.setattr(registry, "BACKENDS", tuple((name, name) for name in known))
        monkeypatch.setattr(registry, "load_backend", known.__getitem__)

    return put


def test_auto_takes_the_first_that_can_and_says_why_not_the_others(fakes):
    fakes(
        Fake("gpu", Availability(False, "no GPU")),
        Fake("cpu", Availability(True, "", "1", ("a CPU",), ("float32",))),
        Fake("last", Availability(True, "", "1", ("a CPU",), ("float32", "bfloat16"))),
    )
    selection = choose(EngineOptions())
    assert selection.backend.name == "cpu"
    assert [(entry.name, entry.why) for entry in selection.skipped] == [("gpu", "no GPU")]
    selection = choose(EngineOptions(precision="bfloat16"))
    assert selection.backend.name == "last"
    assert "bfloat16 is not native on a CPU" in selection.skipped[1].why


def test_an_engine_that_cannot_run_names_what_to_install(fakes):
    fakes(Fake("gpu", Availability(False, "not installed; pip install 'pathgene-rt[gpu]'")))
    with pytest.raises(EngineUnavailableError, match=r"no engine can run here .*\[gpu\]"):
        choose(EngineOptions())
    with pytest.raises(EngineUnavailableError, match=r"engine gpu: not installed; pip install"):
        choose(EngineOptions(backend="gpu"))


def test_an_unknown_engine_is_a_usage_error_that_lists_the_known():
    with pytest.raises(UsageError, match=r"'cuda' is unknown; choose one of auto, .*openvino"):
        choose(EngineOptions(backend="cuda"))


@pytest.mark.parametrize("missing", ["openvino", "onnxruntime"])
def test_a_backend_whose_package_is_missing_says_so(monkeypatch, missing):
    module = importlib.import_module(f"pathgene_rt.engines.{missing}.backend")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    backend = load_backend(missing)
    assert backend.probe() == Availability(False, "not installed; pip install 'pathgene-rt[cpu]'")
    with pytest.raises(EngineUnavailableError, match=f"engine {missing}: not installed"):
        create(backend)


def test_the_factory_makes_encoder_and_heads_of_a_bundle(tmp_path, backend):
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        options = EngineOptions(backend=backend.name, cache_dir=tmp_path / "cache")
        factory = EngineFactory(bundle, options)
        golden = bundle.golden("encoder")
        with factory.encoder() as encoder, factory.head("tp53") as head:
            encoder.submit({"tiles": golden["tiles"]})
            features = encoder.result()["features"]
            np.testing.assert_allclose(features, golden["features"], atol=1e-5)
            assert [tensor.name for tensor in head.spec.inputs] == ["features", "coords"]
        assert len(factory.notes) == 1
        assert backend.name in factory.notes[0]
        with pytest.raises(UsageError, match="no head 'kras'; it has egfr, tp53"):
            factory.head("kras")


def test_a_span_ends_once():
    clock = BusyClock()
    told: list[str] = []
    first = BusySpan(clock, lambda: told.append("first"))
    second = BusySpan(clock, lambda: told.append("second"))
    assert first.running
    first.end()
    first.end()
    assert not first.running
    assert told == ["first"]
    early = clock.seconds
    assert clock.seconds > early  # the second still runs
    second.end()
    assert clock.seconds == clock.seconds


def test_what_a_backend_states_decides_and_no_list_of_names():
    """A name with "tensorrt" or "cuda" in it is a card's; `auto` tries all of those first."""
    on_gpu = registry.backend_names(on_gpu=True)
    on_cpu = registry.backend_names(on_gpu=False)
    assert (*on_gpu, *on_cpu) == registry.backend_names() == tuple(BACKENDS)
    assert on_gpu == tuple(name for name in BACKENDS if "tensorrt" in name or "cuda" in name)
    honouring = [one for one in BACKENDS if registry.load_backend(one).honours_tensorrt_options]
    assert honouring == [name for name in BACKENDS if "tensorrt" in name]
