"""ONNX Runtime on a card, as far as a processor can tell: what is refused, in which order calls are
made, when graphs replay them, what becomes of too little memory. No CUDA call is made here.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cuda import errors as cuda_errors
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import BATCHES, SHARE, TILE_BYTES
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.engines.onnxruntime import encoder_lane, gpu_head_runner, gpu_providers
from pathgene_rt.engines.onnxruntime.at_work import AT_WORK, EnginesAtWork
from pathgene_rt.engines.onnxruntime.encoder_lane import tile_bytes
from pathgene_rt.engines.onnxruntime.encoder_runner import EncoderRunner
from pathgene_rt.engines.onnxruntime.gpu_head_runner import GpuHeadRunner
from pathgene_rt.engines.onnxruntime.gpu_session import (
    cpu_operators,
    cuda_provider,
    open_gpu_session,
)
from pathgene_rt.engines.onnxruntime.runner import native_errors
from pathgene_rt.engines.onnxruntime.tensorrt_backend import _settings
from pathgene_rt.engines.qualify import tuning
from pathgene_rt.engines.registry import EngineFactory, load_backend
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.options import EngineOptions, TensorRtOptions
from tests.support import tiny_models as tiny
from tests.support.fake_cuda import FakeDevice, FakeGpu, FakeStream

CPU = ("CPUExecutionProvider", {})
INFO = EngineInfo("onnxruntime-cuda", "1", "fake", "float32", 1)
WEIGHTS = tiny.encoder_weights()
MODEL = tiny.tiny_encoder_onnx()
SPEC = tiny.encoder_spec(MODEL)
CARD = GpuInfo(0, "NVIDIA Test", (8, 6), 12 << 30, 26, (13, 0))


def tiles(n: int, seed: int = 0) -> np.ndarray:
    shape = (n, tiny.TILE_PX, tiny.TILE_PX, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@functools.cache
def real_session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


class HostGpu(FakeGpu):
    """One that counts addresses as the computer does, so that ONNX Runtime's CPU provider computes
    on its memory through the bindings that a card's would get.
    """

    def map(self, memory: np.ndarray) -> int:
        self._memory[memory.ctypes.data] = memory
        return memory.ctypes.data


class Session:
    """A session of the CPU provider that works when its stream does, as a card's.

    Notes the graph of each call. ``stale`` graphs repeat the features that they were captured with.
    Calls of more than ``most`` tiles run out of memory.
    """

    def __init__(self, stream: int, memory: int, graphs: bool) -> None:
        self.stream, self.memory, self.graphs_on = stream, memory, graphs
        self.graphs: list[int] = []
        self.stale = False
        self.most: int | None = None
        self.threads: set[int] = set()
        self._real = real_session()
        self._captured: set[int] = set()

    def io_binding(self):
        return self._real.io_binding()

    def run_with_iobinding(self, binding, options) -> None:
        graph = int(options.get_run_config_entry("gpu_graph_id"))
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.graphs.append(graph)
        self.threads.add(threading.get_ident())
        if self.most is not None and binding.get_outputs()[0].shape()[0] > self.most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")
        if graph not in self._captured or not self.stale:
            stream = FakeStream.by_handle[self.stream]
            stream.give(lambda: self._real.run_with_iobinding(binding, onnxruntime.RunOptions()))
        if graph > 0:
            self._captured.add(graph)


class Sessions(list[Session]):
    """Those that were opened; ``change`` is done to each."""

    def __init__(self, change=lambda session: None) -> None:
        super().__init__()
        self._change = change

    def __call__(self, stream: int, memory: int, graphs: bool) -> Session:
        self.append(Session(stream, memory, graphs))
        self._change(self[-1])
        return self[-1]


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch):
    monkeypatch.setattr(encoder_lane, "MEMORY", "cpu")
    monkeypatch.setattr(gpu_head_runner, "MEMORY", "cpu")
    monkeypatch.setattr(cuda_errors, "context_failure", lambda: "")
    yield
    gc.collect()
    assert len(AT_WORK._engines) == 0


def runner(gpu=None, opened=None, *, batch: int = 8, in_flight: int = 2, graphs: bool = True):
    options = EngineOptions(batch=batch, in_flight=in_flight)
    sessions = Sessions() if opened is None else opened
    device = FakeDevice(gpu or HostGpu())
    return EncoderRunner(sessions, SPEC, INFO, options, device, graphs=graphs)


def encode(engine: EncoderRunner, batches: list[np.ndarray]) -> None:
    """Through ``engine`` with as many in flight as it allows; the features must be numpy's."""
    results = []
    for number, given in enumerate(batches):
        if number >= engine.in_flight:
            results.append(engine.result()["features"])
        engine.submit({"tiles": given})
    results += [engine.result()["features"] for _ in range(min(engine.in_flight, len(batches)))]
    for given, features in zip(batches, results, strict=True):
        np.testing.assert_allclose(features, tiny.encode(given, WEIGHTS), atol=1e-5)


@pytest.mark.parametrize("graphs", [True, False])
def test_features_are_those_of_numpy_with_every_number_of_tiles(graphs):
    gpu = HostGpu()
    with runner(gpu, in_flight=3, graphs=graphs) as engine:
        encode(engine, [tiles(n, seed=n) for n in (8, 8, 3, 8, 1, 20, 8)])
        buffer = engine.input_buffer("tiles", (5, tiny.TILE_PX, tiny.TILE_PX, 3))
        buffer[:] = tiles(5)
        encode(engine, [buffer])
        assert engine.warnings == ()
    assert gpu.alive == []


def test_whole_batches_replay_a_graph_of_their_slot_and_others_none():
    opened = Sessions()
    with runner(opened=opened) as engine:
        (session,) = opened
        assert session.graphs_on and session.stream
        # Each is captured once, and replayed to compare it with the call that it repeats.
        assert [graph for graph in session.graphs if graph > 0] == [1, 1, 2, 2]
        session.graphs.clear()
        encode(engine, [tiles(8), tiles(8), tiles(8), tiles(5)])
        assert sorted(session.graphs) == [-1, 1, 1, 2] or sorted(session.graphs) == [-1, 1, 2, 2]
        assert engine.graph_problem == ""


def test_a_graph_that_does_not_see_its_input_is_not_used():
    opened = Sessions(lambda session: setattr(session, "stale", True))
    gpu = HostGpu()
    with runner(gpu, opened) as engine:
        assert [session.graphs_on for session in opened] == [True, False]
        assert "other features" in engine.graph_problem
        assert engine.warnings == (
            "onnxruntime-cuda engine of tiny runs without CUDA graphs: a CUDA graph gives other "
            "features than the call that it repeats",
        )
        encode(engine, [tiles(8), tiles(8, 1)])
        assert opened[1].graphs == [-1] * 3
    assert gpu.alive == []


def test_graphs_are_captured_only_where_no_other_engine_is_at_work():
    with runner() as first:
        opened = Sessions()
        with runner(opened=opened) as second:
            assert not opened[0].graphs_on
            assert second.graph_problem == "another engine was at work on the GPU"
            assert second.warnings == ()
        assert first.graph_problem == ""
    with runner() as third:
        assert third.graph_problem == ""


def test_an_engine_that_fails_to_open_is_not_at_work():
    at_work, engine = EnginesAtWork(), SPEC
    with pytest.raises(KeyError), at_work.opening(engine):
        raise KeyError
    with at_work.opening(engine) as alone:
        assert alone
    with at_work.opening(SPEC.preprocess) as alone:
        assert not alone
    at_work.closed(engine)
    at_work.closed(engine)


def test_a_call_waits_for_its_own_input_then_enqueues_and_copies_the_result():
    gpu = HostGpu()
    with runner(gpu, graphs=False) as engine:
        gpu.calls.clear()
        encode(engine, [tiles(8)])
        assert gpu.calls == [
            "upload",
            "record",
            "wait for event",
            "download",
            "record",
            "wait for event",
        ]


def test_each_call_in_flight_has_memory_and_a_stream_of_its_own():
    with runner(in_flight=3) as engine:
        for seed in range(3):
            engine.submit({"tiles": tiles(8, seed)})
        slots = [submission.running[1].slot for submission, _ in engine._outstanding]
        for part in ("number", "stream", "taken", "given", "host", "uploaded", "computed"):
            assert len({id(getattr(slot, part)) for slot in slots}) == 3
        for seed in range(3):
            expected = tiny.encode(tiles(8, seed), WEIGHTS)
            np.testing.assert_allclose(engine.result()["features"], expected, atol=1e-5)


def test_one_thread_makes_and_runs_the_session_whoever_submits():
    opened = Sessions()
    with runner(opened=opened) as engine:
        other = threading.Thread(target=encode, args=(engine, [tiles(8)]))
        other.start()
        other.join()
        encode(engine, [tiles(8), tiles(3)])
        assert len(opened[0].threads) == 1


def test_closing_waits_for_calls_in_flight_and_a_second_time_does_nothing():
    gpu = HostGpu()
    engine = runner(gpu)
    for seed in range(2):
        engine.submit({"tiles": tiles(8, seed)})
    engine.close()
    engine.close()
    assert gpu.alive == []
    with pytest.raises(EngineError, match="is closed"):
        engine.submit({"tiles": tiles(8)})


def free_for(batch: int, in_flight: int = 2) -> int:
    """Bytes of free memory of which the plan takes just what ``batch`` tiles need."""
    return int(batch * (TILE_BYTES + in_flight * tile_bytes(SPEC)) / SHARE) + 1


def test_little_free_memory_means_fewer_tiles_a_call_and_a_warning():
    opened = Sessions()
    with runner(HostGpu(free=free_for(2)), opened) as engine:
        assert "it computes 2 tiles a call from then on" in engine.warnings[0]
        opened[0].graphs.clear()
        encode(engine, [tiles(8), tiles(3)])
        assert len(opened[0].graphs) == 4 + 2
        assert opened[0].memory == int(free_for(2) * SHARE)


def test_no_room_for_one_tile_is_an_error_that_says_what_to_do():
    gpu = HostGpu(free=1 << 20)
    with pytest.raises(EngineError, match=r"one tile needs .* MB .*use --engine openvino"):
        runner(gpu)
    assert gpu.alive == []


@pytest.mark.parametrize("most", [4, 3])
def test_an_encoder_that_needs_more_than_planned_is_halved_when_it_is_made(most):
    gpu = HostGpu()
    opened = Sessions(lambda session: setattr(session, "most", most))
    with runner(gpu, opened) as engine:
        kept = 4 if most == 4 else 2
        assert f"it computes {kept} tiles a call" in engine.warnings[0]
        assert opened[-1].graphs_on
        encode(engine, [tiles(8)])
    assert gpu.alive == []


def test_an_encoder_of_which_no_tile_fits_is_an_error():
    gpu = HostGpu()
    opened = Sessions(lambda session: setattr(session, "most", 0))
    with pytest.raises(EngineError, match="not even one tile fits") as caught:
        runner(gpu, opened)
    assert "\n" not in str(caught.value)
    assert [session.graphs_on for session in opened] == [True] * 4  # 8, 4, 2, 1
    assert gpu.alive == []


def test_out_of_memory_in_a_slide_halves_once():
    opened = Sessions()
    with runner(opened=opened, graphs=False) as engine:
        opened[0].most = 4
        encode(engine, [tiles(8), tiles(8, 1), tiles(2)])
        assert len(engine.warnings) == 1 and "out of GPU memory" in engine.warnings[0]
        opened[0].most = 2
        engine.submit({"tiles": tiles(8)})
        with pytest.raises(DeviceMemoryError, match="halved already"):
            engine.result()
        opened[0].most = None
        encode(engine, [tiles(8)])


def use(gpu: FakeGpu) -> None:
    """Everything that an engine does in its life; what it gives is right or an error."""
    with runner(gpu) as engine:
        buffer = engine.input_buffer("tiles", (8, tiny.TILE_PX, tiny.TILE_PX, 3))
        buffer[:] = tiles(8)
        for given in (buffer, tiles(3), buffer):
            try:
                encode(engine, [given])
            except EngineError as error:
                assert "\n" not in str(error)


def test_whatever_step_fails_everything_is_closed_and_the_next_call_works():
    gpu = HostGpu()
    use(gpu)
    steps = gpu.steps
    assert steps > 50
    for number in range(1, steps + 1):
        gpu = HostGpu()
        gpu.fail_at_step(number)
        try:
            use(gpu)
        except EngineError as error:
            assert "made to" in str(error)
        assert gpu.failed and gpu.alive == [], number


@pytest.mark.parametrize("step", [2, 3])
def test_a_call_that_fails_no_longer_reads_what_it_was_given(step):
    """Step 2 of a call notes that its input was copied, step 3 waits for that."""
    gpu = HostGpu()
    with runner(gpu, graphs=False) as engine:
        gpu.fail_at_step(gpu.steps + step)
        with pytest.raises(EngineError, match="made to"):
            encode(engine, [tiles(8)])
        assert not any(made._waiting for made in gpu.alive if isinstance(made, FakeStream))


def test_a_card_that_is_lost_ends_the_calls_and_not_the_process(monkeypatch):
    gpu = HostGpu()
    monkeypatch.setattr(cuda_errors, "context_failure", lambda: gpu.lost)
    with runner(gpu) as engine:
        engine.submit({"tiles": tiles(8)})
        gpu.lose_at_step(gpu.steps + 1)
        with pytest.raises(DeviceLostError, match="fake was lost while it was to run tiny"):
            engine.result()
        with pytest.raises(DeviceLostError):
            engine.submit({"tiles": tiles(8)})


def test_graphs_are_freed_unless_the_card_was_lost(monkeypatch):
    """ONNX Runtime throws in a destructor where it cannot: the process would end."""
    kept: list[object] = []
    monkeypatch.setattr(encoder_lane, "never_free", lambda *things: kept.extend(things))
    with runner() as engine:
        encode(engine, [tiles(8)])
    assert kept == []
    gpu, opened = HostGpu(), Sessions()
    monkeypatch.setattr(cuda_errors, "context_failure", lambda: gpu.lost)
    with runner(gpu, opened):
        gpu.lose_at_step(gpu.steps + 1)
    assert kept == [opened[0]]


def test_what_is_never_freed_is_not():
    thing = Sessions()
    counted = sys.getrefcount(thing)
    cuda_errors.never_free(thing)
    assert sys.getrefcount(thing) == counted + 1


def test_an_error_of_the_session_is_one_line_and_the_next_call_works():
    opened = Sessions()
    with runner(opened=opened) as engine:
        opened[0].run_with_iobinding, real = None, opened[0].run_with_iobinding
        engine.submit({"tiles": tiles(8)})
        with pytest.raises(EngineError, match="onnxruntime-cuda cannot run tiny: ") as caught:
            engine.result()
        assert "\n" not in str(caught.value)
        opened[0].run_with_iobinding = real
        encode(engine, [tiles(8)])


def test_the_cuda_status_is_told_instead_of_sources_and_hosts():
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. "
        "Status Message: /src/cuda_call.cc:129 bool CudaCall() CUDA failure 700: an illegal memory "
        "access was encountered ; GPU=0 ; hostname=ward7 ; file=/src/gemm.cc ; line=9 ; expr=x"
    )
    with (
        pytest.raises(EngineError) as caught,
        native_errors("run tiny", "onnxruntime-cuda"),
    ):
        raise RuntimeError(text)
    assert str(caught.value) == (
        "onnxruntime-cuda cannot run tiny: CUDA failure 700: an illegal memory access was "
        "encountered"
    )


def test_a_head_computes_and_names_what_a_card_has_no_kernel_for():
    model = tiny.tiny_head_onnx(seed=7)
    spec = tiny.head_spec("egfr", model).model
    features = np.random.default_rng(3).standard_normal((50, tiny.DIM)).astype(np.float32)
    logits, attention = tiny.run_head(features, tiny.head_weights(tiny.DIM, 2, 7))

    def open_session():
        return open_gpu_session(model, spec, "onnxruntime-cuda", [CPU])

    with GpuHeadRunner(open_session, spec, INFO, 2, FakeDevice(HostGpu())) as head:
        head.submit({"features": features})
        outputs = head.result()
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(outputs["attention"], attention, atol=1e-6)
        assert head.device.startswith("fake (on the CPU: ")
        assert "MatMul" in head.device or "Gemm" in head.device


def test_an_encoder_that_would_run_on_the_cpu_is_refused_with_its_operators():
    with pytest.raises(EngineUnavailableError, match=r"no CUDA kernel for \d+ operators of tiny"):
        open_gpu_session(MODEL, SPEC, "onnxruntime-cuda", [CPU])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_without_the_provider_that_was_asked_for_is_refused():
    """Real ONNX Runtime: the CPU wheel has no CUDA, the GPU wheel cannot load it here."""
    if gpu_providers.probe(gpu_providers.CUDA).available:
        pytest.skip("this machine has a GPU that ONNX Runtime computes on")
    for spec in (SPEC, replace(SPEC, preprocess=None)):
        with pytest.raises(EngineUnavailableError, match=r"without CUDAExecutionProvider \(on CPU"):
            open_gpu_session(MODEL, spec, "onnxruntime-cuda", [cuda_provider(0)])


def test_sizes_of_tensors_may_be_computed_on_the_cpu():
    model = tiny.tiny_head_onnx(coords=True)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    everything = [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    kept = [name.split()[0] for name in cpu_operators(session)]
    assert {"MatMul", "Gemm", "Softmax"} & set(kept)
    assert not {"Shape", "Gather", "Concat", "Unsqueeze", "Cast", "Slice"} & set(kept)
    assert len(kept) <= len(everything)


def test_settings_of_the_cuda_provider():
    name, options = cuda_provider(1, stream=77, memory=123, graphs=True)
    assert name == "CUDAExecutionProvider"
    assert options == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "user_compute_stream": "77",
        "gpu_mem_limit": "123",
        "enable_cuda_graph": "1",
    }
    assert set(cuda_provider(0)[1]) == set(options) - {
        "user_compute_stream",
        "gpu_mem_limit",
        "enable_cuda_graph",
    }


def test_settings_of_the_tensorrt_provider_name_every_size_of_batch():
    settings = _settings(SPEC, TensorRtOptions(workspace_mb=2), "float16", 128)
    assert settings == {
        "trt_profile_min_shapes": "tiles:1x64x64x3",
        "trt_profile_opt_shapes": "tiles:128x64x64x3",
        "trt_profile_max_shapes": "tiles:128x64x64x3",
        "trt_max_workspace_size": str(2 << 20),
        "trt_fp16_enable": "1",
        "trt_layer_norm_fp32_fallback": "1",
    }
    assert "trt_fp16_enable" not in _settings(SPEC, TensorRtOptions(), "float32", 128)
    with pytest.raises(EngineError, match=r"--strip-weights; use --engine tensorrt"):
        _settings(SPEC, TensorRtOptions(strip_weights=True), "float32", 128)


@pytest.fixture
def a_card(monkeypatch):
    """The driver sees a card; what else is missing is up to the test."""
    monkeypatch.setattr(gpu_providers, "driver_problem", lambda: "")
    monkeypatch.setattr(gpu_providers, "cuda_devices", lambda: (CARD,))
    monkeypatch.setattr(registry, "cuda_devices", lambda: (CARD,))


def test_a_machine_without_a_driver_says_so_first(monkeypatch):
    monkeypatch.setattr(gpu_providers, "driver_problem", lambda: "there is no NVIDIA driver (x); y")
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        backend = load_backend(name)
        assert backend.probe().reason == "there is no NVIDIA driver (x); y"
        with pytest.raises(EngineUnavailableError, match=f"engine {name}: there is no NVIDIA"):
            backend.create(MODEL, SPEC, EngineOptions(), "float32", None)


def offered(monkeypatch, *providers: str, version: str = "1.31.1") -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
    monkeypatch.setattr(onnxruntime, "__version__", version)


@pytest.mark.usefixtures("a_card")
def test_each_thing_that_is_missing_has_its_own_reason(monkeypatch):
    def reason() -> str:
        return load_backend("onnxruntime-cuda").probe().reason

    offered(monkeypatch, "CPUExecutionProvider")
    assert "without CUDAExecutionProvider; pip uninstall onnxruntime, then" in reason()
    offered(monkeypatch, "CUDAExecutionProvider", version="1.23.0")
    assert "1.23.0 is too old, 1.24 or newer" in reason()
    offered(monkeypatch, "CUDAExecutionProvider")
    monkeypatch.setattr(gpu_providers, "device_package", lambda: "")
    assert "neither cuda.core nor pycuda" in reason()
    monkeypatch.setattr(gpu_providers, "device_package", lambda: "pycuda")
    monkeypatch.setattr(gpu_providers, "_trial", lambda provider: f"{provider} cannot be loaded")
    assert reason() == "CUDAExecutionProvider cannot be loaded"
    monkeypatch.setattr(gpu_providers, "_trial", lambda _: "")
    found = load_backend("onnxruntime-cuda").probe()
    assert found.available and found.devices == ("NVIDIA Test",)
    assert found.precisions == ("float32", "float16")
    assert found.batches == (32, 64, 128, 256) and found.usual_batch == 64
    monkeypatch.setattr(gpu_providers.importlib.util, "find_spec", lambda _: None)
    assert reason() == "not installed; pip install 'pathgene-rt[gpu]'"


@pytest.mark.usefixtures("a_card")
def test_auto_warns_of_a_card_that_it_does_not_use(tmp_path):
    if gpu_providers.probe(gpu_providers.CUDA).available:
        pytest.skip("this machine has a GPU that ONNX Runtime computes on")
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        options = EngineOptions(cache_dir=None)
        (warning,) = EngineFactory(bundle, options).warnings
        assert warning.startswith("NVIDIA Test is not used, the encoder runs on the CPU (")
        assert "onnxruntime-cuda" in warning and "onnxruntime-tensorrt" in warning
        assert EngineFactory(bundle, replace(options, backend="onnxruntime")).warnings == ()
        with pytest.raises(EngineUnavailableError, match="engine onnxruntime-cuda: ") as caught:
            EngineFactory(bundle, replace(options, backend="onnxruntime-cuda"))
        assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_auto_does_not_warn_without_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "cuda_devices", lambda: ())
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        assert EngineFactory(bundle, EngineOptions(cache_dir=None)).warnings == ()


class RefusingCard:
    """A backend on a card that is available, and cannot make its encoder."""

    name = "onnxruntime-cuda"
    on_gpu = True
    honours_tensorrt_options = False

    def probe(self) -> Availability:
        precisions = ("float32", "float16")
        return Availability(True, "", "1", ("NVIDIA Test",), precisions, BATCHES)

    def create(self, model, spec, options, precision, cache, *, progress=None):
        raise EngineError("one tile needs 900 MB of GPU memory")


def test_auto_goes_on_without_a_card_that_cannot_make_the_encoder(tmp_path, monkeypatch):
    real, refusing = registry.load_backend, RefusingCard()
    on_cpu = ("onnxruntime", "pathgene_rt.engines.onnxruntime.backend")
    monkeypatch.setattr(registry, "BACKENDS", ((refusing.name, ""), on_cpu))
    monkeypatch.setattr(
        registry, "load_backend", lambda name: refusing if name == refusing.name else real(name)
    )
    monkeypatch.setattr(registry, "cuda_devices", lambda: (CARD,))
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        factory = EngineFactory(bundle, EngineOptions(cache_dir=None))
        assert factory.options.batch == 64 and factory.warnings == ()
        with factory.encoder() as encoder, factory.head("egfr") as head:
            assert encoder.info.backend == head.info.backend == "onnxruntime"
        assert factory.options.batch == 8
        why = "onnxruntime-cuda: one tile needs 900 MB of GPU memory"
        assert factory.warnings == (
            f"NVIDIA Test is not used, the encoder runs on the CPU ({why})",
        )
        assert factory.notes[0] == f"engine {why.replace(':', ' not used:', 1)}"
        # Whoever asked for the card, or for another precision beside an open engine, is told.
        factory = EngineFactory(bundle, EngineOptions(cache_dir=None, backend=refusing.name))
        with pytest.raises(EngineError, match="one tile needs 900 MB"):
            factory.encoder()
        factory = EngineFactory(bundle, EngineOptions(cache_dir=None))
        with pytest.raises(EngineError, match="one tile needs 900 MB"):
            factory.encoder("float32")
        assert factory.selection.backend is refusing
        with pytest.raises(EngineUnavailableError, match=r"no engine can run here \(.*float16"):
            EngineFactory(bundle, EngineOptions(cache_dir=None, precision="float16")).encoder()


def test_build_makes_an_engine_for_each_batch_of_a_card(tmp_path, monkeypatch):
    found = Availability(True, "", "1", ("a card",), ("float32",), BATCHES[:3])
    made = []

    class Card:
        name = "onnxruntime-cuda"
        on_gpu = True
        honours_tensorrt_options = False

        def probe(self) -> Availability:
            return found

        def create(self, model, spec, options, precision, cache, *, progress=None):
            made.append((options.batch, options.in_flight))
            return runner(batch=options.batch, in_flight=options.in_flight)

    monkeypatch.setattr(registry, "load_backend", lambda _: Card())
    monkeypatch.setattr(tuning, "_TILES_ON_GPU", 1)
    rates = {32: 1.0, 64: 3.0, 128: 3.01}
    monkeypatch.setattr(tuning, "measure_rate", lambda encoder, tiles, batch, **_: rates[batch])
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as bundle:
        options = EngineOptions(backend="onnxruntime-cuda", precision="float32", cache_dir=None)
        best = tuning.tune(bundle, options)
        assert (best.batch, best.in_flight) == (64, 2)
        assert made == [(batch, n) for n in (2, 4) for batch in (32, 64, 128)]
        assert EngineFactory(bundle, options).options.batch == 64
