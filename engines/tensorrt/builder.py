"""From an ONNX graph to a plan for the current GPU, in the precision that the graph has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import ProgressCallback
from pathgene_rt.engines.cuda.errors import DeviceMemoryError, is_out_of_memory
from pathgene_rt.engines.tensorrt.errors import (
    OTHER_ENGINE,
    Messages,
    TooLargeError,
    advice,
    failure,
    native_errors,
)
from pathgene_rt.engines.tensorrt.library import TENSORRT, Card, Library
from pathgene_rt.engines.tensorrt.profiles import Profile, shapes
from pathgene_rt.engines.tensorrt.progress import BuildProgress, monitor
from pathgene_rt.engines.tensorrt.timing_cache import TimingCache
from pathgene_rt.errors import CancelledError, EngineError
from pathgene_rt.options import TensorRtOptions

if TYPE_CHECKING:
    import tensorrt as trt

_LOOK_S = 0.2
"""How often the waiting thread looks for Ctrl-C: Windows does not interrupt a longer wait."""


@dataclass(frozen=True)
class Build:
    """One engine to be built: ``model`` is ONNX, its inputs are those of ``spec``.

    ``workspace`` bounds a layer's scratch memory, in bytes; None as the library has it. ``threads``
    may build at once. ``current`` makes the GPU current in the thread that builds. ``timings``
    holds what was measured of kernels on it, None to measure all anew. ``cards`` are the compute
    capabilities to build for where there is no GPU to build on. ``every_profile`` refuses what
    builds for smaller bags only.
    """

    model: bytes
    spec: ModelSpec
    profiles: tuple[Profile, ...]
    options: TensorRtOptions
    workspace: int | None
    threads: int
    current: Callable[[], AbstractContextManager[None]]
    timings: TimingCache | None = None
    cards: tuple[Card, ...] = ()
    every_profile: bool = False
    library: Library = TENSORRT


def build_plan(build: Build, progress: ProgressCallback | None = None) -> bytes:
    """A serialized engine; takes minutes, and Ctrl-C ends it within seconds.

    A head that is too large for TensorRT or the card with the largest bags is built for smaller
    ones: its plan then has the first few of the profiles. Raises EngineError, CancelledError,
    whatever ``progress`` raises.
    """
    steps = BuildProgress(f"tensorrt: building {build.spec.name}", progress)
    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt-build") as worker:
        # Not here: Python sees Ctrl-C only in the main thread, and only between two steps of it.
        future = worker.submit(_build, build, steps)
        try:
            while not wait([future], timeout=_LOOK_S).done:
                pass
        except BaseException:
            steps.cancel()
            raise
        return future.result()


def _build(build: Build, progress: BuildProgress) -> bytes:
    with build.current():
        name = build.spec.name
        with native_errors(f"read {name}"):
            builder = build.library.api.Builder(build.library.logger())
            builder.max_threads = build.threads
            network = builder.create_network(build.library.strongly_typed())
            # Holds the weights that the network points to.
            parser = _parse(build, network)
        refused: DeviceMemoryError | TooLargeError | None = None
        fewest = len(build.profiles) if build.every_profile else 1
        for count in range(len(build.profiles), fewest - 1, -1):
            progress.restart()
            try:
                return _attempt(build, build.profiles[:count], builder, network, parser, progress)
            except (DeviceMemoryError, TooLargeError) as error:
                refused = error
        assert refused is not None
        raise refused


def _parse(build: Build, network: trt.INetworkDefinition) -> trt.OnnxParser:
    parser = build.library.api.OnnxParser(network, build.library.logger())
    if not parser.parse(build.model):
        raise _refusal(build.spec.name, [parser.get_error(i) for i in range(parser.num_errors)])
    if network.num_layers == 0:  # which is how it reads what is no graph at all
        raise EngineError(
            f"tensorrt finds no operator in the graph of {build.spec.name}; export it again"
        )
    takes = {network.get_input(index).name for index in range(network.num_inputs)}
    declared = {tensor.name for tensor in build.spec.inputs}
    if takes != declared:
        raise EngineError(
            f"tensorrt finds the inputs {', '.join(sorted(takes))} in the graph of "
            f"{build.spec.name}, the bundle declares {', '.join(sorted(declared))}; export it again"
        )
    return parser


def _refusal(name: str, errors: Sequence[trt.ParserError]) -> EngineError:
    """The error of a graph that the parser refused, with the first node that it stumbled over."""
    if not errors:
        return EngineError(f"tensorrt cannot read {name}, and does not say why; {OTHER_ENGINE}")
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    told = " ".join(first.desc().split()).rstrip(".")
    where = _place(first)
    if told in ("", "false"):  # an assertion without words
        told = first.code().name
    elif first.node() < 0:
        told = f"{told} ({first.code().name})"
    return EngineError(f"tensorrt cannot read {name}: {where}{told}{more}; {advice(told)}")


def _place(error: trt.ParserError) -> str:
    """Node and operator that the parser stumbled over, as far as it knows them: if neither, its own
    function may be named after the operator."""
    function = re.fullmatch(r"(?:import|check)(\w+)", error.func())
    operator = error.node_operator() or (function[1] if function else "")
    if error.node_name() or error.node() >= 0:
        return f"node {error.node_name() or f'number {error.node()}'} ({operator}): "
    return f"operator {operator}: " if operator else ""


def _attempt(
    build: Build,
    profiles: tuple[Profile, ...],
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    parser: trt.OnnxParser,
    progress: BuildProgress,
) -> bytes:
    name = build.spec.name
    with native_errors(f"prepare the build of {name}"):
        config = builder.create_builder_config()
        _configure(config, parser, build)
        for profile in profiles:
            _add_profile(config, builder, build.spec, profile)
        follower = monitor(build.library, progress)
        config.progress_monitor = follower
        if build.timings is not None:
            build.timings.use(config)
    with native_errors(f"build {name}") as said:
        plan = builder.build_serialized_network(network, config)
        if build.timings is not None:
            build.timings.keep(config)
    if progress.error is not None:
        raise progress.error
    if progress.cancelled:
        raise CancelledError(f"building the engine of {name} was stopped")
    if plan is None:
        raise _not_built(build, said)
    return bytes(plan)


def _not_built(build: Build, said: Messages) -> EngineError:
    """Why the library gave no plan. Where it builds without a card, memory that it lacks is the
    limit that it was given, with what the whole graph has under way at once."""
    doing = f"build {build.spec.name}"
    if build.cards and build.workspace is not None and is_out_of_memory(said.telling):
        return TooLargeError(
            f"tensorrt cannot {doing} for the sizes that it may have: more is under way at once "
            f"than the {build.workspace >> 20:,} MB of --workspace; leave that out, or give more"
        )
    return failure(doing, said)


def _configure(config: trt.IBuilderConfig, parser: trt.OnnxParser, build: Build) -> None:
    trt, options = build.library.api, build.options
    flags = trt.BuilderFlag
    if build.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build.workspace)
    if build.cards:
        build.library.build_for(config, build.cards)
    # One stream an execution context: ours overlap, and a captured graph holds one.
    config.max_aux_streams = 0
    # What the graph has in float32 needs all its bits: the resize of pixels is exact in it.
    config.clear_flag(flags.TF32)
    build.library.tell_memory_by_shape(config)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
        if plugins := parser.get_used_vc_plugin_libraries():
            config.plugins_to_serialize = plugins
    if options.hardware_compatible == "ampere_plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.strip_weights:
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(flags.REFIT_IDENTICAL)


def _add_profile(
    config: trt.IBuilderConfig, builder: trt.Builder, spec: ModelSpec, profile: Profile
) -> None:
    made = builder.create_optimization_profile()
    for tensor in spec.inputs:
        made.set_shape(tensor.name, *shapes(tensor, profile))
    if config.add_optimization_profile(made) < 0:
        raise TooLargeError(
            f"tensorrt does not take {spec.name} for the sizes {profile}; {OTHER_ENGINE}"
        )
