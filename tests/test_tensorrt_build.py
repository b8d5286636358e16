"""Our own logic around building TensorRT engines, on stand-ins that record what it does.

No TensorRT runs here: what it makes of these calls, only a GPU can tell (docs/gpu.md).
"""

from __future__ import annotations

import _thread
import ast
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt import anytime, folding
from pathgene_rt.bundle import Bundle
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.main import app
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.build import build
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import MB, largest_batch
from pathgene_rt.engines.engine_cache import EngineCache
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.engines.tensorrt import api, backend, profiles
from pathgene_rt.engines.tensorrt.backend import BACKEND
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.errors import native_errors
from pathgene_rt.engines.tensorrt.keys import timing_key
from pathgene_rt.engines.tensorrt.plan import ForeignPlanError, load_plan
from pathgene_rt.engines.tensorrt.progress import BuildProgress
from pathgene_rt.engines.tensorrt.timing_cache import TimingCache
from pathgene_rt.errors import EngineError, EngineUnavailableError, UsageError
from pathgene_rt.geometry import grid_edges
from pathgene_rt.model_spec import ModelSpec, TensorSpec
from pathgene_rt.options import EngineOptions, TensorRtOptions

from . import tiny_models as tiny
from .fake_tensorrt import BITS, FakeTensorRt, Recorded, Script

VERSIONS = {10: "10.3.0", 11: "11.4.0.106"}
GPU = GpuInfo(0, "NVIDIA RTX A2000 12GB", (8, 6), 12 << 30, 26, (13, 1))
ENCODER = tiny.tiny_encoder_onnx()
ENCODER_SPEC = tiny.encoder_spec(ENCODER)
HEAD = tiny.tiny_head_onnx(coords=True)
HEAD_SPEC = tiny.head_spec("egfr", HEAD).model


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=[11, 10])
def library(request, script, monkeypatch) -> Iterator[FakeTensorRt]:
    """A recording stand-in of each major version; it is what ``import tensorrt`` gives."""
    fake = FakeTensorRt(VERSIONS[request.param], script)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    api.logger.cache_clear()
    yield fake
    api.logger.cache_clear()


def order(model: bytes = ENCODER, spec: ModelSpec = ENCODER_SPEC, **changed: Any) -> Build:
    return Build(
        **{
            "model": model,
            "spec": spec,
            "profiles": profiles.profiles_for(spec, 64),
            "options": TensorRtOptions(),
            "workspace": 256 * MB,
            "threads": 3,
            "current": nullcontext,
            **changed,
        }
    )


def head_order(**changed: Any) -> Build:
    return order(HEAD, HEAD_SPEC, **changed)


# --- the calls of a build


def test_a_build_takes_types_from_the_graph_and_flags_by_name(library):
    major = int(library.__version__.split(".")[0])
    plan = build_plan(order())
    assert b'"flags": []' in plan  # above all not TF32, in which the resize is not exact
    assert library.arguments("Builder.create_network") == [(1 << BITS[major]["STRONGLY_TYPED"],)]
    assert library.arguments("OnnxParser.parse") == [(ENCODER,)]
    assert library.arguments("Builder.max_threads =") == [(3,)]
    ((pool, size),) = library.arguments("IBuilderConfig.set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 256 * MB)
    shapes = ((1, 64, 64, 3), (64, 64, 64, 3), (64, 64, 64, 3))
    assert library.arguments("IOptimizationProfile.set_shape") == [("tiles", *shapes)]
    made = library.made()
    steps = (
        "init_libnvinfer_plugins",
        "Builder",
        "Builder.create_network",
        "OnnxParser.parse",
        "Builder.create_builder_config",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.clear_flag",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.progress_monitor =",
        "Builder.build_serialized_network",
    )
    assert [step for step in made if step in steps] == list(steps)


def test_all_objects_share_one_logger_which_prints_nothing(library, script, capfd):
    script.log = [("INFO", "hello"), ("WARNING", "slow"), ("VERBOSE", "more")]
    plan = build_plan(order())
    load_plan(plan, "tiny", host_code=False, weights=ENCODER)
    assert len(library.loggers) >= 4
    assert len(set(map(id, library.loggers))) == 1
    assert capfd.readouterr() == ("", "")


def test_flags_of_engines_for_other_versions_and_cards_and_without_weights(library, script):
    script.vc_plugins = ["nvinfer_vc_plugin"]
    options = TensorRtOptions(
        version_compatible=True, hardware_compatible="ampere_plus", strip_weights=True
    )
    plan = build_plan(order(options=options))
    assert b'"flags": ["REFIT_IDENTICAL", "STRIP_PLAN", "VERSION_COMPATIBLE"]' in plan
    ((level,),) = library.arguments("IBuilderConfig.hardware_compatibility_level =")
    assert level.name == "AMPERE_PLUS"
    assert library.arguments("IBuilderConfig.plugins_to_serialize =") == [(["nvinfer_vc_plugin"],)]


@pytest.mark.parametrize("library", [11], indirect=True)
def test_a_head_is_built_for_every_size_of_bag(library):
    build_plan(head_order())
    shapes = library.arguments("IOptimizationProfile.set_shape")
    features = [entry[1:] for entry in shapes if entry[0] == "features"]
    coords = [entry[1:] for entry in shapes if entry[0] == "coords"]
    assert [(low[0], high[0]) for low, _, high in features] == [
        (1, 1024),
        (1024, 8192),
        (8192, 32_768),
        (32_768, 200_000),
    ]
    assert [[size[0] for size in sizes] for sizes in coords] == [
        [size[0] for size in sizes] for sizes in features
    ]
    assert library.made().count("IBuilderConfig.add_optimization_profile") == 4


# --- failures at every step


def test_a_refused_operator_is_one_line_with_its_node(library, script):
    script.parser_errors = [
        ("/head/Unique_3", "Unique", "No importer registered\nfor op: Unique."),
        ("/head/Gather_4", "Gather", "consequence"),
    ]
    with pytest.raises(EngineError) as failed:
        build_plan(order())
    assert str(failed.value) == (
        "tensorrt cannot read tiny: node /head/Unique_3 (Unique): No importer registered for op: "
        "Unique (and 1 more); use --engine onnxruntime-cuda"
    )
    assert "Builder.build_serialized_network" not in library.made()


def test_running_out_of_memory_is_told_though_it_is_not_the_first_error(library, script):
    script.plan_is_none = True
    script.log = [
        ("WARNING", "Tactic Device request: 4096MB Available: 300MB. Device memory is short."),
        ("ERROR", "Skipping tactic 0x1 due to exception"),
        ("ERROR", "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)"),
    ]
    with pytest.raises(DeviceMemoryError) as failed:
        build_plan(order())
    assert str(failed.value) == (
        "tensorrt cannot build tiny: Error Code 2: OutOfMemory (Requested size was 4294967296 "
        "bytes.); close what else uses the GPU (nvidia-smi lists it), or build with a smaller "
        "--batch"
    )


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ([], "it gave no reason; use --engine"),
        ([("WARNING", "first"), ("WARNING", "last")], "last; use --engine"),
        ([("ERROR", "cause"), ("ERROR", "consequence")], "cause; use --engine"),
        (
            [("ERROR", "Error Code 10: Could not find any implementation for node {Foreign}")],
            "build with a larger --workspace",
        ),
        ([("INTERNAL_ERROR", "no kernel image is available")], "does not know this GPU"),
        ([("ERROR", "a\n b" + " long" * 200)], "a b long"),
    ],
)
def test_a_failed_build_says_what_was_logged(library, script, log, told):
    script.plan_is_none, script.log = True, log
    with pytest.raises(EngineError, match="tensorrt cannot build tiny") as failed:
        build_plan(order())
    assert told in str(failed.value)
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 450


def test_an_old_driver_shows_when_the_builder_cannot_be_made(library, script):
    script.builder_fails = "CUDA initialization failure with error: 35. Please check"
    with pytest.raises(EngineError, match=r"error: 35.*; install a newer NVIDIA driver"):
        build_plan(order())


def test_plugins_that_cannot_be_registered_are_an_error(library, script):
    script.plugins = False
    with pytest.raises(EngineError, match="cannot register its plugins: it gave no reason"):
        build_plan(order())
    assert "Builder" not in library.made()


def test_sizes_that_tensorrt_refuses_are_an_error(library, script):
    script.profile_index = -1
    with pytest.raises(EngineError, match="tensorrt does not take tiny for the sizes"):
        build_plan(order())
    script.profile_index, script.set_shape_fails = None, "shapes are inconsistent"
    with pytest.raises(EngineError, match="prepare the build of tiny: shapes are inconsistent"):
        build_plan(order())
    assert "Builder.build_serialized_network" not in library.made()


def test_a_graph_with_other_inputs_than_declared_is_refused(library):
    with pytest.raises(
        EngineError, match=r"finds the inputs tiles in .* declares coords, features"
    ):
        build_plan(order(ENCODER, HEAD_SPEC))


def test_an_axis_without_a_range_is_refused(library):
    odd = TensorSpec(name="tiles", dtype="uint8", shape=("n", "height", 64, 3))
    with pytest.raises(EngineError, match="no range for the axis 'height' of tiles"):
        build_plan(order(spec=replace(ENCODER_SPEC, inputs=(odd,))))


def test_a_head_refused_for_large_bags_is_built_for_smaller_ones(library, script):
    script.refuses_profiles_over = 2
    script.log = [("ERROR", "volume of dimension exceeds the maximum")]
    assert b'"profiles": 2' in build_plan(head_order())
    assert library.made().count("Builder.build_serialized_network") == 3
    assert library.made().count("OnnxParser.parse") == 1
    script.refuses_profiles_over = 0
    with pytest.raises(EngineError, match="volume of dimension exceeds the maximum"):
        build_plan(head_order())


def test_what_goes_on_in_other_threads_is_heard(library):
    with native_errors("wait") as said:
        worker = threading.Thread(target=api.logger().log, args=(library.ILogger.ERROR, "far"))
        worker.start()
        worker.join()
    assert said.errors == ["far"]


def test_messages_in_a_loop_do_not_fill_the_memory(library):
    with native_errors("wait") as said:
        for number in range(1000):
            api.logger().log(library.ILogger.ERROR, f"error {number}")
    assert said.errors[0] == "error 0" and len(said.errors) < 100
    with native_errors("wait") as said:
        pass
    assert said.errors == []


# --- progress and stopping

PHASES: list[tuple[Any, ...]] = [
    ("start", "Building Engine", None, 2),
    ("start", "Tactic Selection", "Building Engine", 4),
    ("step", "Tactic Selection"),
    ("step", "Tactic Selection"),
    ("finish", "Tactic Selection"),
    ("step", "Building Engine"),
    ("step", "Building Engine"),
    ("finish", "Building Engine"),
]


def test_progress_grows_from_phases_in_phases(library, script):
    script.phases = PHASES
    told: list[tuple[str, float | None]] = []
    build_plan(order(), lambda words, share: told.append((words, share)))
    assert {words for words, _ in told} == {"tensorrt: building tiny"}
    assert [share for _, share in told] == pytest.approx([0.125, 0.25, 0.5, 1.0])


def test_progress_of_odd_phases_stays_between_nothing_and_all():
    told: list[float] = []
    progress = BuildProgress("words", lambda _, share: told.append(share))
    progress.began("a", "never began", 0)
    progress.began("b", "a", 1)
    for name in ("b", "b", "b", "unknown", "a", "a"):
        assert progress.step(name)
    progress.ended("unknown")
    progress.ended("a")
    assert progress.step("b")
    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)


def test_progress_from_several_threads_is_counted_whole():
    progress = BuildProgress("words", None)
    told: list[float] = []
    progress = BuildProgress("words", lambda _, share: told.append(share))
    progress.began("root", None, 400)
    workers = [
        threading.Thread(target=lambda: [progress.step("root") for _ in range(100)])
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert told[-1] == 1.0 and len(told) == 400


def _until_stopped(config: Any) -> None:
    """A build that goes on until its monitor says otherwise, for at most 20 s."""
    config.progress_monitor.phase_start("root", None, 1000)
    for _ in range(2000):
        if not config.progress_monitor.step_complete("root", 0):
            return
        threading.Event().wait(0.01)
    raise AssertionError("nobody stopped the build")


@pytest.mark.parametrize("library", [11], indirect=True)
def test_ctrl_c_ends_a_build(library, script):
    script.during_build, script.plan_is_none = _until_stopped, True
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        build_plan(head_order())
    assert library.made().count("Builder.build_serialized_network") == 1
    assert not [one for one in threading.enumerate() if one.name.startswith("tensorrt-build")]


@pytest.mark.parametrize("library", [11], indirect=True)
def test_what_tell_raises_ends_the_build_and_comes_out_as_it_was(library, script):
    def tell(_words: str, _share: float | None) -> None:
        raise ZeroDivisionError("mine")

    script.during_build, script.plan_is_none = _until_stopped, True
    with pytest.raises(ZeroDivisionError, match="mine"):
        build_plan(head_order(), tell)
    assert library.made().count("Builder.build_serialized_network") == 1


@pytest.mark.parametrize("library", [11], indirect=True)
def test_the_gpu_is_current_where_the_build_runs(library):
    where = []

    @contextmanager
    def current():
        where.append(threading.current_thread().name)
        before = len(library.calls)
        yield
        where.append(len(library.calls) - before)

    build_plan(order(current=current))
    assert where[0].startswith("tensorrt-build")
    assert where[1] == len(library.calls)


# --- timings


@pytest.mark.parametrize("library", [11], indirect=True)
def test_timings_are_kept_from_build_to_build(library, script, tmp_path):
    timings = TimingCache(EngineCache(tmp_path), timing_key(library.__version__, GPU))
    build_plan(order(timings=timings))
    assert timings.cache.get(timings.key) == b"+"
    script.plan_is_none = True
    with pytest.raises(EngineError):
        build_plan(order(timings=timings))
    assert timings.cache.get(timings.key) == b"++"  # what was measured is not lost
    assert library.arguments("IBuilderConfig.create_timing_cache") == [(b"",), (b"+",)]
    assert {ignore for _, ignore in library.arguments("IBuilderConfig.set_timing_cache")} == {False}


@pytest.mark.parametrize("kept", [b"damaged", b"mismatch"])
def test_timings_that_tensorrt_refuses_are_measured_anew(library, tmp_path, kept):
    timings = TimingCache(EngineCache(tmp_path), timing_key(library.__version__, GPU))
    timings.cache.put(timings.key, kept)
    build_plan(order(timings=timings))
    assert timings.cache.get(timings.key) == b"+"


def test_timings_are_of_one_version_and_one_card(tmp_path):
    cache = EngineCache(tmp_path)
    cache.put(timing_key("11.4.0", GPU), b"timings")
    assert cache.get(timing_key("11.4.0", GPU)) == b"timings"
    assert cache.get(timing_key("11.4.1", GPU)) is None
    for change in ({"name": "L4"}, {"compute_capability": (8, 9)}, {"sm_count": 8}):
        assert cache.get(timing_key("11.4.0", replace(GPU, **change))) is None


# --- plans


def test_a_plan_carries_no_code_unless_it_must(library):
    plan = build_plan(order())
    load_plan(plan, "tiny", host_code=False, weights=None)
    load_plan(plan, "tiny", host_code=True, weights=None)
    assert library.arguments("Runtime.engine_host_code_allowed =") == [(False,), (True,)]
    assert "Refitter" not in library.made()


def test_a_plan_of_another_version_is_foreign(library):
    with pytest.raises(ForeignPlanError, match="cannot load the engine of tiny: Version tag"):
        load_plan(b'{"version": "9.0", "profiles": 1}', "tiny", host_code=False, weights=None)


def test_weights_come_from_the_bundle(library):
    plan = build_plan(order(options=TensorRtOptions(strip_weights=True)))
    load_plan(plan, "tiny", host_code=False, weights=ENCODER)
    made = library.made()
    assert made[made.index("Runtime") :] == [
        "Runtime",
        "Runtime.engine_host_code_allowed =",
        "Runtime.deserialize_cuda_engine",
        "Refitter",
        "OnnxParserRefitter",
        "OnnxParserRefitter.refit_from_bytes",
        "Refitter.get_missing_weights",
        "Refitter.refit_cuda_engine",
    ]
    assert library.arguments("OnnxParserRefitter.refit_from_bytes") == [(ENCODER,)]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ({"refit_errors": [("n", "MatMul", "no such weight"), ("m", "Add", "nor this")]}, "weight"),
        ({"missing_weights": ["/fc/weight", "b"]}, "the graph lacks 2 of them, first /fc/weight"),
        ({"refits": False}, "it gave no reason"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(library, script, trouble, told):
    plan = build_plan(order(options=TensorRtOptions(strip_weights=True)))
    for name, value in trouble.items():
        setattr(script, name, value)
    with pytest.raises(EngineError, match=f"put the weights of tiny into its engine: .*{told}"):
        load_plan(plan, "tiny", host_code=False, weights=ENCODER)


# --- profiles


def test_ranges_of_bags_leave_no_size_out():
    assert profiles.BAGS[0].lowest == 1
    for smaller, larger in zip(profiles.BAGS, profiles.BAGS[1:], strict=False):
        assert larger.lowest <= smaller.highest + 1
    assert all(bag.lowest <= bag.best <= bag.highest for bag in profiles.BAGS)
    assert profiles.MAX_BAG == 200_000


def test_edges_fit_the_range_of_their_bag():
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    coords = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int64)
    assert grid_edges(coords).shape[1] <= profiles.NEIGHBOURS * len(coords)
    for profile in profiles.head_profiles():
        assert profile["e"].lowest == 0
        assert profile["e"].highest == profiles.NEIGHBOURS * profile["n"].highest


def test_fold_graphs_are_built_for_the_calls_that_are_made():
    assert profiles.FOLD_TILES == folding._MOST_TILES
    assert profiles.FOLD_GROUPS == anytime.GROUPS
    group = TensorSpec(name="peak", dtype="float32", shape=("g", 1))
    spec = replace(HEAD_SPEC, inputs=(*HEAD_SPEC.inputs, group))
    (profile,) = profiles.profiles_for(spec, 64)
    assert profiles.shapes(group, profile) == ((1, 1), (32, 1), (32, 1))


# --- the backend


@dataclass
class Card:
    """A GPU as far as the backend looks at it."""

    name: str = GPU.name
    free: int = 8 << 30

    @contextmanager
    def current(self, doing: str):
        yield

    def memory_info(self) -> tuple[int, int]:
        return self.free, 12 << 30


class Runner:
    """Loads its plan, and runs nothing."""

    def __init__(self, load: Callable[[], Any], spec, info, options, device) -> None:
        self.loaded, self.spec, self.info, self.options = load(), spec, info, options
        self.warnings: list[str] = []

    def warn(self, what: str) -> None:
        self.warnings.append(what)


@pytest.fixture
def card(monkeypatch) -> Card:
    found = Card()
    monkeypatch.setattr(backend, "driver_problem", lambda: "")
    monkeypatch.setattr(backend, "cuda_devices", lambda: (GPU,))
    monkeypatch.setattr(backend, "device_package", lambda: "cuda.core")
    monkeypatch.setattr(backend, "open_device", lambda index: found)
    monkeypatch.setattr(backend, "TensorRtRunner", Runner)
    monkeypatch.setattr(api, "installed", lambda: True)
    monkeypatch.setattr(api, "_has_distribution", lambda name: False)
    return found


def create(
    cache: EngineCache | None,
    *,
    tensorrt: TensorRtOptions | None = None,
    model: bytes = ENCODER,
    spec: ModelSpec = ENCODER_SPEC,
    batch: int = 8,
    **more: Any,
) -> Any:
    options = EngineOptions(batch=batch, tensorrt=tensorrt)
    return BACKEND.create(model, spec, options, "float16", cache, **more)


def builds(library: FakeTensorRt) -> int:
    return library.made().count("Builder.build_serialized_network")


def test_an_engine_is_built_once_and_the_first_who_waited_is_told(library, card, tmp_path):
    cache = EngineCache(tmp_path)
    first = create(cache)
    assert builds(library) == 1
    (warning,) = first.warnings
    assert "tiny had to be built first, which took 0 s; pathgene-rt build does" in warning
    second = create(EngineCache(tmp_path))
    assert builds(library) == 1 and second.warnings == []
    assert second.info.backend == "tensorrt" and second.info.precision == "float16"
    assert second.info.device == GPU.name and second.info.version == library.__version__
    assert create(None).warnings and builds(library) == 2


def test_a_smaller_batch_finds_the_same_engine_and_a_larger_one_gets_its_own(
    library, card, tmp_path
):
    cache = EngineCache(tmp_path)
    most = largest_batch(GPU.memory_total)
    for batch in (8, most // 2, most):
        create(cache, batch=batch)
    assert builds(library) == 1
    create(cache, batch=2 * most)
    assert builds(library) == 2
    create(cache, tensorrt=TensorRtOptions(max_batch=16))
    assert [shape[-1][0] for shape in library.arguments("IOptimizationProfile.set_shape")] == [
        most,
        2 * most,
        16,
    ]


@pytest.mark.parametrize("library", [11], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        {"name": "NVIDIA L4"},
        {"compute_capability": (8, 9)},
        {"sm_count": 58},
        {"driver_version": (13, 2)},
    ],
    ids=str,
)
def test_another_card_or_driver_has_its_own_engine(library, card, tmp_path, monkeypatch, change):
    create(EngineCache(tmp_path))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (replace(GPU, **change),))
    create(EngineCache(tmp_path))
    assert builds(library) == 2


@pytest.mark.parametrize("library", [11], indirect=True)
@pytest.mark.parametrize(
    "asked",
    [
        TensorRtOptions(workspace_mb=512),
        TensorRtOptions(version_compatible=True),
        TensorRtOptions(hardware_compatible="ampere_plus"),
        TensorRtOptions(strip_weights=True),
    ],
    ids=str,
)
def test_every_flag_has_its_own_engine(library, card, tmp_path, asked):
    create(EngineCache(tmp_path))
    create(EngineCache(tmp_path), tensorrt=asked)
    create(EngineCache(tmp_path), tensorrt=asked)
    assert builds(library) == 2


@pytest.mark.parametrize("library", [11], indirect=True)
def test_compatible_engines_are_found_by_other_cards_and_versions(
    library, card, tmp_path, monkeypatch
):
    asked = TensorRtOptions(
        version_compatible=True, hardware_compatible="ampere_plus", max_batch=32
    )
    create(EngineCache(tmp_path), tensorrt=asked)
    newer = replace(GPU, name="NVIDIA L4", compute_capability=(8, 9), driver_version=(13, 2))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (newer,))
    library.__version__ = "11.5.0"
    create(EngineCache(tmp_path), tensorrt=asked)
    assert builds(library) == 1


@pytest.mark.parametrize("library", [11], indirect=True)
def test_an_engine_that_tensorrt_does_not_take_is_built_anew(library, card, script, tmp_path):
    cache = EngineCache(tmp_path)
    create(cache)
    library.calls.clear()
    library.__version__, before = "11.4.0.107", library.__version__
    with pytest.MonkeyPatch.context() as patch:  # as if the key could not tell
        patch.setattr(api, "version", lambda: before)
        assert create(cache).warnings
        assert builds(library) == 1
        assert not create(cache).warnings  # the new one was kept in its place
        assert builds(library) == 1


def test_an_engine_that_is_foreign_where_it_was_built_is_an_error(library, card, script, tmp_path):
    script.refuses_plans = True
    with pytest.raises(ForeignPlanError):
        create(EngineCache(tmp_path))
    assert builds(library) == 1


@pytest.mark.parametrize("library", [11], indirect=True)
def test_a_head_built_for_smaller_bags_says_so_each_time(library, card, script, tmp_path):
    script.refuses_profiles_over = 3
    head = {"model": HEAD, "spec": HEAD_SPEC}
    _, told = create(EngineCache(tmp_path), **head).warnings
    assert told == (
        "tensorrt could build egfr for bags of up to 32,768 tiles only; for larger ones use "
        "--engine onnxruntime-cuda"
    )
    assert create(EngineCache(tmp_path), **head).warnings == [told]


def test_a_card_that_others_fill_is_told_before_minutes_are_spent(library, card):
    card.free = 300 * MB
    with pytest.raises(DeviceMemoryError) as failed:
        create(None)
    assert str(failed.value) == (
        "NVIDIA RTX A2000 12GB has 300 of 12,288 MB free, too little to build tiny; close what "
        "else uses it (nvidia-smi lists it), or use --engine onnxruntime-cuda"
    )
    assert builds(library) == 0


def test_engines_for_ampere_are_refused_on_older_cards(library, card, monkeypatch):
    turing = replace(GPU, name="Tesla T4", compute_capability=(7, 5))
    monkeypatch.setattr(backend, "cuda_devices", lambda: (turing,))
    with pytest.raises(EngineError, match="Tesla T4 is older than Ampere"):
        create(None, tensorrt=TensorRtOptions(hardware_compatible="ampere_plus"))
    assert builds(library) == 0


def test_minutes_of_work_are_told_of(library, card, script, tmp_path):
    script.phases = PHASES
    told: list[tuple[str, float | None]] = []
    create(EngineCache(tmp_path), tell=lambda *what: told.append(what))
    assert told[0] == ("tensorrt: building tiny; this takes minutes", None)
    assert told[-1] == ("tensorrt: building tiny", 1.0)


def test_the_card_decides_what_is_offered(library, card, monkeypatch):
    found = BACKEND.probe()
    assert found == Availability(
        True,
        "",
        library.__version__,
        (GPU.name,),
        ("float32", "float16"),
        (32, 64, 128, 256),
    )
    monkeypatch.setattr(backend, "cuda_devices", lambda: (replace(GPU, memory_total=1 << 30),))
    (only,) = BACKEND.probe().batches
    assert 1 <= only < 32


def test_what_is_missing_is_told_in_one_line(library, card, monkeypatch):
    def reason(change: Callable[[pytest.MonkeyPatch], None]) -> str:
        with monkeypatch.context() as patch:
            change(patch)
            found = BACKEND.probe()
        assert not found.available and "\n" not in found.reason
        with pytest.raises(EngineUnavailableError), monkeypatch.context() as patch:
            change(patch)
            create(None)
        return found.reason

    def attribute(place: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
        return lambda patch: patch.setattr(place, name, value)

    cuda12 = (replace(GPU, driver_version=(12, 4)),)
    assert reason(attribute(backend, "driver_problem", lambda: "no driver")) == "no driver"
    told = reason(attribute(api, "installed", lambda: False))
    assert told == "not installed; pip install 'pathgene-rt[tensorrt]'"
    told = reason(attribute(backend, "device_package", lambda: ""))
    assert told.startswith("neither cuda.core nor pycuda is installed; pip install")
    for version in ("10.2.0", "8.6.1", "12.0.0", "who knows"):
        told = reason(attribute(library, "__version__", version))
        assert told.startswith(f"TensorRT {version} is installed, this pathgene-rt runs 10.3 to 11")

    def broken(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(sys.modules, "tensorrt", None)

    assert reason(broken).startswith("tensorrt cannot be loaded: ")

    def for_cuda_13(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(api, "_has_distribution", lambda name: name == "tensorrt-cu13")
        patch.setattr(backend, "cuda_devices", lambda: cuda12)

    assert reason(for_cuda_13) == (
        f"TensorRT {library.__version__} for CUDA 13 is installed, the driver serves CUDA 12.4; "
        "install a newer NVIDIA driver, or pip uninstall tensorrt-cu13 and pip install "
        "'pathgene-rt[tensorrt-cu12]'"
    )


def test_distributions_are_looked_up_by_name(monkeypatch):
    def known(name: str) -> None:
        if name != "tensorrt-cu12":
            raise PackageNotFoundError(name)

    monkeypatch.setattr(api, "distribution", known)
    assert api._has_distribution("tensorrt-cu12") and not api._has_distribution("tensorrt-cu13")


# --- what build keeps, and the command line


@pytest.fixture
def bundle(tmp_path) -> Iterator[Bundle]:
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as opened:
        yield opened


class Elsewhere:
    """A backend under TensorRT's name whose engines are ONNX Runtime's; notes its options."""

    name = "tensorrt"

    def __init__(self) -> None:
        self.asked: list[TensorRtOptions | None] = []

    def probe(self) -> Availability:
        return Availability(True, "", "11.4", (GPU.name,), ("float32",))

    def create(self, model, spec, options, precision, cache, *, tell=None):
        from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU

        self.asked.append(options.tensorrt)
        if tell is not None:
            tell("building", 0.5)
        return CPU.create(model, spec, options, precision, cache)


@pytest.fixture
def elsewhere(monkeypatch) -> Elsewhere:
    found = Elsewhere()
    monkeypatch.setattr(registry, "BACKENDS", (("tensorrt", "elsewhere"),))
    monkeypatch.setattr(registry, "load_backend", lambda name: found)
    return found


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_later_commands_ask_for_the_engines_that_build_made(bundle, elsewhere, tmp_path, precision):
    options = EngineOptions(cache_dir=tmp_path / "cache", precision=precision)
    asked = TensorRtOptions(strip_weights=True, workspace_mb=512, max_batch=16)
    told = []
    build(bundle, replace(options, tensorrt=asked), lambda *what: told.append(what))
    assert set(elsewhere.asked) == {asked}
    assert ("building", 0.5) in told
    assert EngineFactory(bundle, options).options.tensorrt == asked
    assert EngineFactory(bundle, replace(options, precision="float32")).options.tensorrt == asked
    elsewhere.asked.clear()
    build(bundle, options)  # without flags: as if never told otherwise
    assert set(elsewhere.asked) == {TensorRtOptions()}
    assert EngineFactory(bundle, options).options.tensorrt == TensorRtOptions()


def test_a_build_of_one_precision_decides_nothing_about_auto(bundle, elsewhere, tmp_path):
    options = EngineOptions(cache_dir=tmp_path / "cache", precision="float32")
    build(bundle, options)
    factory = EngineFactory(bundle, replace(options, precision="auto"))
    assert factory._choose_precision()[0] == "float32"
    assert "found no precision within the limits" not in factory.notes[0]


def test_auto_leaves_out_a_card_on_which_build_could_not_run_the_bundle(
    bundle, elsewhere, tmp_path, monkeypatch
):
    from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU

    def refuse(*_args, **_named):
        raise EngineError("tensorrt cannot read egfr: node 7 (Unique)")

    both = {"tensorrt": elsewhere, "onnxruntime": CPU}
    monkeypatch.setattr(registry, "BACKENDS", tuple((name, name) for name in both))
    monkeypatch.setattr(registry, "load_backend", both.__getitem__)
    options = EngineOptions(cache_dir=tmp_path / "cache")
    assert EngineFactory(bundle, options).selection.backend is elsewhere
    monkeypatch.setattr(elsewhere, "create", refuse)
    build(bundle, options)
    factory = EngineFactory(bundle, options)
    assert factory.selection.backend is CPU
    assert factory.notes[0] == (
        "engine tensorrt not used: tensorrt cannot read egfr: node 7 (Unique)"
    )
    assert (
        EngineFactory(bundle, replace(options, backend="tensorrt")).selection.backend is elsewhere
    )


def test_options_of_another_version_count_as_none():
    known = TensorRtOptions(max_batch=4)
    assert TensorRtOptions.of_record({"max_batch": 4}) == known
    for record in (None, "text", {"max_batch": -1}, {"unheard_of": 1}, {"workspace_mb": 1 << 40}):
        assert TensorRtOptions.of_record(record) == TensorRtOptions()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"workspace_mb": -1}, "workspace -1 MB is out of range"),
        ({"max_batch": 5000}, "max_batch 5000 is out of range"),
        ({"hardware_compatible": "hopper"}, "compatibility 'hopper' is unknown"),
    ],
)
def test_options_that_make_no_sense_are_refused(asked, told):
    with pytest.raises(UsageError, match=told):
        TensorRtOptions(**asked)


def test_build_hands_the_flags_on(tmp_path, elsewhere):
    path = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    flags = ["--workspace", "300", "--version-compatible", "--strip-weights", "--batch", "4"]
    more = ["--hardware-compatible", "ampere_plus", "--quiet"]
    result = CliRunner().invoke(app, ["build", str(path), "--engine", "tensorrt", *flags, *more])
    assert result.exit_code == 0, result.output
    assert set(elsewhere.asked) == {
        TensorRtOptions(
            workspace_mb=300,
            max_batch=4,
            version_compatible=True,
            hardware_compatible="ampere_plus",
            strip_weights=True,
        )
    }


def test_steps_are_lines_and_shares_are_a_bar(monkeypatch, capsys):
    with Console().steps() as step:
        step("one")
        step("two", 0.5)
        step("three", None)
    assert capsys.readouterr().err == "one\nthree\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().steps() as step:
        step("two", 0.25)
        step("two", 0.5)
        assert step._bar is not None
        (task,) = step._bar._bars.tasks
        assert (task.description, task.completed, task.total) == ("two", 50, 100)
        step("three")
        assert step._bar is None


# --- the stand-ins against the real bindings


def _declared(stub: Path) -> dict[str, set[str]]:
    """Attributes of each class of a stub file, inherited ones too; functions under ""."""
    tree = ast.parse((stub / "tensorrt" / "__init__.pyi").read_text())
    found: dict[str, set[str]] = {"": set()}

    def names(body: list[ast.stmt]) -> set[str]:
        own = {item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef)}
        return own | {item.target.id for item in body if isinstance(item, ast.AnnAssign)}

    for item in tree.body:
        if isinstance(item, ast.ClassDef):
            bases = [base.id for base in item.bases if isinstance(base, ast.Name)]
            found[item.name] = names(item.body).union(*(found.get(base, set()) for base in bases))
        elif isinstance(item, ast.FunctionDef):
            found[""].add(item.name)
    return found


@pytest.mark.parametrize(
    ("stub", "version"),
    [("tensorrt10_3", "10.3.0"), ("tensorrt10", "10.13.3.9"), ("tensorrt11", "11.4.0.106")],
)
def test_the_stand_ins_have_no_name_that_the_bindings_lack(shared, stub, version):
    folder = shared / "tensorrt" / "typings" / stub
    declared = _declared(folder)
    compared = 0
    for name, made in vars(FakeTensorRt(version)).items():
        if not isinstance(made, type):
            continue
        assert name in declared, f"{stub} has no class {name}"
        inherited = {key for kind in made.__mro__ for key in getattr(kind, "__annotations__", ())}
        own = {key for key in vars(made) if not key.startswith("_")}
        if not issubclass(made, Recorded):
            own -= {"name", "value"}
            inherited = set()
        missing = {key for key in own | inherited if not key.startswith("_")} - declared[name]
        assert not missing, f"{stub}: {name} has no {missing}"
        compared += len(own)
    assert compared > 30
    assert "init_libnvinfer_plugins" in declared[""]
