"""TensorRT on an NVIDIA card: engines built once for it and kept, in float32 or float16."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import (
    Availability,
    NotBuiltError,
    ProgressCallback,
    available,
)
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.cuda.driver import GpuInfo, cuda_devices, driver_problem
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import MB, batches_to_try, largest_batch
from pathgene_rt.engines.cuda.open_device import device_package, open_device
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.tensorrt.ahead_of_time import build_for_card
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.errors import OTHER_ENGINE, ForeignPlanError
from pathgene_rt.engines.tensorrt.just_in_time import KeptKernels
from pathgene_rt.engines.tensorrt.keys import engine_key, kernels_key, timing_key
from pathgene_rt.engines.tensorrt.library import TENSORRT, Library, card_in_words
from pathgene_rt.engines.tensorrt.plan import LoadedPlan, load_plan
from pathgene_rt.engines.tensorrt.profiles import profiles_for
from pathgene_rt.engines.tensorrt.runner import TensorRtRunner
from pathgene_rt.engines.tensorrt.timing_cache import TimingCache
from pathgene_rt.errors import EngineError
from pathgene_rt.options import EngineOptions, Precision, TensorRtOptions

_MOST_WORKSPACE = 4096 * MB
_LEAST_FREE = 512 * MB
"""Below this no build is begun: it would fail minutes later."""

_AMPERE = (8, 0)


class TensorRtBackend:
    """``library`` on the first card. Precision is that of the graph it is given, so that all
    versions agree.

    Building takes seconds to minutes; `build` does it for the encoder and every head, and whoever
    comes later finds the engines in the cache.
    """

    on_gpu = True
    honours_tensorrt_options = True

    def __init__(self, library: Library) -> None:
        self.library = library
        self.name = library.backend

    def probe(self) -> Availability:
        if why := driver_problem():
            return Availability(False, why)
        gpu, library = cuda_devices()[0], self.library
        if why := library.refuses(gpu.name, gpu.compute_capability):
            return Availability(False, why)
        if why := library.unusable(gpu.driver_version):
            return Availability(False, why)
        if not device_package():
            command = library.install(gpu.driver_version)
            return Availability(False, f"neither cuda.core nor pycuda is installed; {command}")
        return Availability(
            True,
            "",
            library.version(),
            (gpu.name,),
            _precisions(library, gpu),
            batches_to_try(gpu.memory_total),
        )

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        found, library = available(self, precision), self.library
        gpu = cuda_devices()[0]
        _require_known(library, found.version, spec, gpu)
        device = open_device(gpu.index)
        wanted = _wanted(library, model, spec, options, gpu, device)
        key = engine_key(wanted, precision, found.version, gpu)
        kernels = None
        if cache is not None and library.ahead_of_time:
            kernels = KeptKernels(cache, kernels_key(key, gpu))
        elif cache is not None:
            wanted = replace(wanted, timings=TimingCache(cache, timing_key(found.version, gpu)))
        info = EngineInfo(self.name, found.version, gpu.name, precision, 0)
        took: list[float] = []
        ranges: list[int] = []

        def tell(what: str) -> None:
            if progress is not None:
                progress(f"{self.name}: {what}", None)

        def make() -> bytes:
            began = time.monotonic()
            if library.ahead_of_time:
                plan = build_for_card(wanted, progress)
            else:
                _require_memory(device, spec.name)
                tell(f"building {spec.name}; this takes minutes")
                plan = build_plan(wanted, progress)
            took.append(time.monotonic() - began)
            return plan

        def run(plan: bytes) -> TensorRtRunner:
            def load() -> LoadedPlan:
                loaded = load_plan(
                    library,
                    plan,
                    spec,
                    host_code=wanted.options.version_compatible,
                    weights=model if wanted.options.strip_weights else None,
                    kernels=kernels,
                )
                ranges.append(loaded.engine.num_optimization_profiles)
                return loaded

            return TensorRtRunner(load, spec, info, options, device)

        if cache is None:
            runner = run(make())
        else:
            wait = partial(tell, f"another process builds {spec.name}, waiting for it")
            try:
                runner = run(cache.built(key, make, wait, graph=spec.name))
            except ForeignPlanError:
                if took:
                    raise
                cache.drop(key)
                runner = run(cache.built(key, make, wait, graph=spec.name))
        for warning in _warnings(self.name, wanted, took, ranges[-1]):
            runner.warn(warning)
        return runner


def _precisions(library: Library, gpu: GpuInfo) -> tuple[Precision, ...]:
    """Those that ``library`` computes on a card: TensorRT for RTX has no products in float32 for
    Turing."""
    if library.ahead_of_time and gpu.compute_capability < _AMPERE:
        return ("float16",)
    return ("float32", "float16")


def _require_known(library: Library, version: str, spec: ModelSpec, gpu: GpuInfo) -> None:
    """Raise NotBuiltError if the same compiler could not build the graph for such cards when the
    bundle was made."""
    compiled, card = spec.compiled, card_in_words(gpu.compute_capability)
    if compiled is None or not library.ahead_of_time:
        return
    if compiled.compiler == f"{library.title} {version}" and card in compiled.refused:
        raise NotBuiltError(
            f"{library.title} builds no engine of {spec.name} for cards of {card} "
            f"({compiled.refused[card]})"
        )


def _wanted(
    library: Library,
    model: bytes,
    spec: ModelSpec,
    options: EngineOptions,
    gpu: GpuInfo,
    device: CudaDevice,
) -> Build:
    """What to build for a card. Raises EngineError if it is not one for such an engine."""
    chosen = options.tensorrt or TensorRtOptions()
    _require_possible(library, chosen, gpu)
    most = max(options.batch, chosen.max_batch or largest_batch(gpu.memory_total))
    workspace: int | None = chosen.workspace_mb * MB
    if not library.ahead_of_time:
        workspace = workspace or min(gpu.memory_total // 4, _MOST_WORKSPACE)
    return Build(
        model=model,
        spec=spec,
        profiles=profiles_for(spec, most),
        options=chosen,
        workspace=workspace or None,
        threads=options.threads or usable_cpus(),
        current=partial(device.current, f"build {spec.name}"),
        cards=(gpu.compute_capability,) if library.ahead_of_time else (),
        library=library,
    )


def _require_possible(library: Library, chosen: TensorRtOptions, gpu: GpuInfo) -> None:
    """Raise EngineError for options that do not build, or not for such a card."""
    compatible = chosen.hardware_compatible == "ampere_plus"
    if library.ahead_of_time:
        for asked, flag in (
            (chosen.version_compatible, "--version-compatible"),
            (compatible, "--hardware-compatible"),
            (chosen.strip_weights, "--strip-weights"),
        ):
            if asked:
                raise EngineError(
                    f"engine {library.backend} builds nothing with {flag}; leave it out, or use "
                    f"--engine {TENSORRT.backend}"
                )
    if compatible and gpu.compute_capability < _AMPERE:
        raise EngineError(
            f"{gpu.name} is older than Ampere, where engines for ampere_plus neither build nor "
            "run; build without --hardware-compatible"
        )


def _warnings(backend: str, wanted: Build, took: Sequence[float], ranges: int) -> Iterator[str]:
    """What a report says of an engine that took seconds to build, of so many of its profiles."""
    name = wanted.spec.name
    if took:
        yield (
            f"the {backend} engine of {name} had to be built first, which took {took[0]:.0f} s; "
            "pathgene-rt build does that beforehand"
        )
    if ranges < len(wanted.profiles):
        largest = wanted.profiles[ranges - 1]["n"].highest
        yield (
            f"{backend} could build {name} for bags of up to {largest:,} tiles only; for larger "
            f"ones {OTHER_ENGINE}"
        )


def _require_memory(device: CudaDevice, name: str) -> None:
    """Raise EngineError if so little of the card's memory is free that a build would fail."""
    with device.current(f"build {name}"):
        free, total = device.memory_info()
    if free < _LEAST_FREE:
        raise DeviceMemoryError(
            f"{device.name} has {free / MB:,.0f} of {total / MB:,.0f} MB free, too little to build "
            f"{name}; close what else uses it (nvidia-smi lists it), or {OTHER_ENGINE}"
        )


BACKEND = TensorRtBackend(TENSORRT)
