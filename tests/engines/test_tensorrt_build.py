"""Our own logic around building TensorRT engines, on stand-ins that record what it does.

No TensorRT runs here: what it makes of these calls, only a GPU can tell (docs/gpu.md).
"""

from __future__ import annotations

import _thread
import ast
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import MB
from pathgene_rt.engines.tensorrt import profiles
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.errors import LOG, ForeignPlanError, OldDriverError, native_errors
from pathgene_rt.engines.tensorrt.keys import timing_key
from pathgene_rt.engines.tensorrt.library import TENSORRT
from pathgene_rt.engines.tensorrt.plan import load_plan
from pathgene_rt.engines.tensorrt.progress import BuildProgress
from pathgene_rt.engines.tensorrt.timing_cache import TimingCache
from pathgene_rt.errors import EngineError
from pathgene_rt.geometry import grid_edges, grid_regions
from pathgene_rt.heads import incremental_pooling, interim
from pathgene_rt.options import TensorRtOptions
from tests.support.fake_tensorrt import (
    BITS,
    ENCODER,
    ENCODER_SPEC,
    GPU,
    HEAD,
    HEAD_SPEC,
    PHASES,
    FakeTensorRt,
    Recorded,
    Script,
    installed,
)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=[11, 10])
def library(request, script) -> Iterator[FakeTensorRt]:
    with installed(request.param, script) as fake:
        yield fake


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
    load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=ENCODER)
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


def test_engines_tell_their_memory_by_shape_where_a_version_lets_them(library):
    build_plan(order())
    told = library.arguments("IBuilderConfig.set_preview_feature")
    names = [(feature.name, enabled) for feature, enabled in told]
    newer = library.__version__.startswith("11")
    assert names == ([("RUNTIME_ACTIVATION_RESIZE_10_10", True)] if newer else [])


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (("", "", "Unsupported reduction type", "importScatterElements", -1),
         "operator ScatterElements: Unsupported reduction type (UNSUPPORTED_NODE); use"),
        (("uq", "Unique", "false", "checkUnique", 0), "node uq (Unique): UNSUPPORTED_NODE; use"),
        (("", "Det", "", "parseNode", 3), "node number 3 (Det): UNSUPPORTED_NODE; use"),
        (("", "", "it is cut short", "deserialize", -1),
         "tiny: it is cut short (UNSUPPORTED_NODE); use"),
    ],
)  # fmt: skip
def test_what_the_parser_leaves_out_is_told_by_its_code_and_function(library, script, error, told):
    script.parser_errors = [error]
    with pytest.raises(EngineError) as failed:
        build_plan(order())
    assert told in str(failed.value)


def test_what_is_no_graph_is_refused_though_the_parser_takes_it(library):
    with pytest.raises(EngineError, match="finds no operator in the graph of tiny; export"):
        build_plan(order(model=b"hello"))
    assert "Builder.build_serialized_network" not in library.made()


def test_an_old_driver_is_not_blamed_for_the_fault_of_a_graph(library, script):
    """Without a driver, the library tells so after each of them."""
    fault = "node_argmax: at least 2 dimensions are required"
    driver = "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)"
    script.plan_is_none, script.log = True, [("ERROR", fault), ("ERROR", driver)]
    with pytest.raises(EngineError, match=f"{fault}; use --engine onnxruntime-cuda"):
        build_plan(order())
    within = f"ITensor::getDimensions: Error Code 3: API Usage Error ({driver})"
    script.log = [("ERROR", within)]
    with pytest.raises(EngineError) as failed:
        build_plan(order())
    assert "newer NVIDIA driver" not in str(failed.value)
    script.log = [("ERROR", driver), ("ERROR", fault)]
    with pytest.raises(EngineError, match="install a newer NVIDIA driver"):
        build_plan(order())


def test_an_old_export_that_moves_bytes_is_to_be_made_again(library, script):
    script.parser_errors = [("Transpose_0", "Transpose", "UINT8 is not supported here")]
    with pytest.raises(EngineError, match="UINT8 is not supported here; export the bundle again"):
        build_plan(order())


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


@pytest.mark.parametrize(
    ("text", "attempts"),
    [
        ("s: tensor volume exceeds 1099511627776, dimensions are [n,n]", 4),
        ("kOPT values for profile 0 violate shape constraints", 4),
        ("Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)", 4),
        ("Could not find any implementation for node {Foreign}", 4),
        ("Cannot compile operation 'mm' for Turing (SM75): FP32 GEMM is not supported.", 1),
        ("node_argmax: at least 2 dimensions are required for input", 1),
    ],
)
def test_only_what_may_be_too_large_is_tried_for_smaller_bags(library, script, text, attempts):
    script.plan_is_none, script.log = True, [("ERROR", text)]
    with pytest.raises(EngineError, match="tensorrt cannot build egfr"):
        build_plan(head_order())
    assert library.made().count("Builder.build_serialized_network") == attempts


def test_what_goes_on_in_other_threads_is_heard(library):
    with native_errors("wait") as said:
        worker = threading.Thread(target=TENSORRT.logger().log, args=(library.ILogger.ERROR, "far"))
        worker.start()
        worker.join()
    assert said.errors == ["far"]


def test_messages_in_a_loop_do_not_fill_the_memory(library):
    with native_errors("wait") as said:
        for number in range(1000):
            TENSORRT.logger().log(library.ILogger.ERROR, f"error {number}")
    assert said.errors[0] == "error 0" and len(said.errors) < 100
    with native_errors("wait") as said:
        pass
    assert said.errors == []


# --- progress and stopping


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
    # A shell that runs the tests in the background ignores it, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, _thread.interrupt_main).start()
        with pytest.raises(KeyboardInterrupt):
            build_plan(head_order())
    finally:
        signal.signal(signal.SIGINT, before)
    assert library.made().count("Builder.build_serialized_network") == 1
    assert not [one for one in threading.enumerate() if one.name.startswith("tensorrt-build")]


@pytest.mark.parametrize("library", [11], indirect=True)
def test_what_tell_raises_ends_the_build_and_comes_out_as_it_was(library, script):
    def progress(_words: str, _share: float | None) -> None:
        raise ZeroDivisionError("mine")

    script.during_build, script.plan_is_none = _until_stopped, True
    with pytest.raises(ZeroDivisionError, match="mine"):
        build_plan(head_order(), progress)
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
    load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=None)
    load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=True, weights=None)
    assert library.arguments("Runtime.engine_host_code_allowed =") == [(False,), (True,)]
    assert "Refitter" not in library.made()


def test_a_plan_of_another_version_is_foreign(library):
    with pytest.raises(ForeignPlanError, match="cannot load the engine of tiny: Version tag"):
        load_plan(
            TENSORRT,
            b'{"version": "9.0", "profiles": 1}',
            ENCODER_SPEC,
            host_code=False,
            weights=None,
        )


def test_a_plan_that_the_memory_does_not_hold_is_not_foreign(library, monkeypatch):
    def full(runtime, serialized_engine: bytes) -> None:
        LOG.error("Error Code 2: OutOfMemory (Requested size was 113000000 bytes.)")

    plan = build_plan(order())
    monkeypatch.setattr(library.Runtime, "deserialize_cuda_engine", full)
    with pytest.raises(DeviceMemoryError, match=r"cannot load the engine of tiny: .*OutOfMemory"):
        load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=None)


def test_an_old_driver_does_not_make_a_plan_foreign(library, monkeypatch):
    """What is foreign is dropped and built anew."""

    def old(runtime, serialized_engine: bytes) -> None:
        LOG.error("Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")

    plan = build_plan(order())
    monkeypatch.setattr(library.Runtime, "deserialize_cuda_engine", old)
    with pytest.raises(OldDriverError, match=r"load the engine of tiny: .*newer NVIDIA driver"):
        load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=None)


def test_weights_come_from_the_bundle(library):
    plan = build_plan(order(options=TensorRtOptions(strip_weights=True)))
    load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=ENCODER)
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
        load_plan(TENSORRT, plan, ENCODER_SPEC, host_code=False, weights=ENCODER)


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


def test_regions_of_tissue_fit_the_range_of_their_bag():
    """A disc of tissue, as large as each range is best for and at most."""
    for profile in profiles.head_profiles():
        for n in (profile["n"].best, profile["n"].highest):
            reach = int((n / np.pi) ** 0.5) + 2
            columns, rows = np.meshgrid(np.arange(2 * reach), np.arange(2 * reach))
            coords = np.stack([columns.ravel(), rows.ravel()], axis=1)
            inside = np.argsort(((coords - reach) ** 2).sum(axis=1), kind="stable")[:n]
            assert len(grid_regions(coords[inside])) <= profile["r"].highest
        assert profile["r"].lowest <= profile["r"].best <= profile["r"].highest


def test_fold_graphs_are_built_for_the_calls_that_are_made():
    assert profiles.POOLING_TILES == incremental_pooling._MOST_TILES
    assert profiles.POOLING_GROUPS == interim.GROUPS
    group = TensorSpec(name="peak", dtype="float32", shape=("g", 1))
    spec = replace(HEAD_SPEC, inputs=(*HEAD_SPEC.inputs, group))
    (profile,) = profiles.profiles_for(spec, 64)
    assert profiles.shapes(group, profile) == ((1, 1), (32, 1), (32, 1))


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
