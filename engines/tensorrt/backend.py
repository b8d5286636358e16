"""TensorRT on an NVIDIA card: engines built once for it and kept, in float32 or float16."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.backend import Availability, ProgressCallback, available
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.cuda.driver import GpuInfo, cuda_devices, driver_problem
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.memory_plan import MB, batches_to_try, largest_batch
from pathgene_rt.engines.cuda.open_device import device_package, open_device
from pathgene_rt.engines.engine import Engine, EngineInfo
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.tensorrt import api
from pathgene_rt.engines.tensorrt.builder import Build, build_plan
from pathgene_rt.engines.tensorrt.errors import OTHER_ENGINE
from pathgene_rt.engines.tensorrt.keys import NAME, engine_key, timing_key
from pathgene_rt.engines.tensorrt.plan import ForeignPlanError, LoadedPlan, load_plan
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
    """The first card. Precision is that of the graph it is given, so that all versions agree.

    Building takes minutes; `build` does it for the encoder and every head, and whoever comes later
    finds the engines in the cache.
    """

    name = NAME
    on_gpu = True
    honours_tensorrt_options = True

    def probe(self) -> Availability:
        if why := driver_problem():
            return Availability(False, why)
        gpu = cuda_devices()[0]
        if why := api.unusable(gpu.driver_version):
            return Availability(False, why)
        if not device_package():
            why = f"neither cuda.core nor pycuda is installed; {api.install(gpu.driver_version)}"
            return Availability(False, why)
        batches = batches_to_try(gpu.memory_total)
        return Availability(True, "", api.version(), (gpu.name,), ("float32", "float16"), batches)

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
        found = available(self, precision)
        gpu = cuda_devices()[0]
        device = open_device(gpu.index)
        wanted = _wanted(model, spec, options, gpu, device)
        if cache is not None:
            wanted = replace(wanted, timings=TimingCache(cache, timing_key(found.version, gpu)))
        info = EngineInfo(NAME, found.version, gpu.name, precision, 0)
        took: list[float] = []
        ranges: list[int] = []

        def make() -> bytes:
            began = time.monotonic()
            _require_memory(device, spec.name)
            if progress is not None:
                progress(f"tensorrt: building {spec.name}; this takes minutes", None)
            plan = build_plan(wanted, progress)
            took.append(time.monotonic() - began)
            return plan

        def wait() -> None:
            if progress is not None:
                progress(f"tensorrt: another process builds {spec.name}, waiting for it", None)

        def run(plan: bytes) -> TensorRtRunner:
            def load() -> LoadedPlan:
                loaded = load_plan(
                    plan,
                    spec.name,
                    host_code=wanted.options.version_compatible,
                    weights=model if wanted.options.strip_weights else None,
                )
                ranges.append(loaded.engine.num_optimization_profiles)
                return loaded

            return TensorRtRunner(load, spec, info, options, device)

        key = engine_key(wanted, precision, found.version, gpu)
        if cache is None:
            runner = run(make())
        else:
            try:
                runner = run(cache.built(key, make, wait, graph=spec.name))
            except ForeignPlanError:
                if took:
                    raise
                cache.drop(key)
                runner = run(cache.built(key, make, wait, graph=spec.name))
        for warning in _warnings(wanted, took, ranges[-1]):
            runner.warn(warning)
        return runner


def _wanted(
    model: bytes, spec: ModelSpec, options: EngineOptions, gpu: GpuInfo, device: CudaDevice
) -> Build:
    """What to build for a card. Raises EngineError if it is not one for such an engine."""
    chosen = options.tensorrt or TensorRtOptions()
    if chosen.hardware_compatible == "ampere_plus" and gpu.compute_capability < _AMPERE:
        raise EngineError(
            f"{gpu.name} is older than Ampere, where engines for ampere_plus neither build nor "
            "run; build without --hardware-compatible"
        )
    most = max(options.batch, chosen.max_batch or largest_batch(gpu.memory_total))
    return Build(
        model=model,
        spec=spec,
        profiles=profiles_for(spec, most),
        options=chosen,
        workspace=chosen.workspace_mb * MB or min(gpu.memory_total // 4, _MOST_WORKSPACE),
        threads=options.threads or usable_cpus(),
        current=partial(device.current, f"build {spec.name}"),
    )


def _warnings(wanted: Build, took: Sequence[float], ranges: int) -> Iterator[str]:
    """What a report says of an engine that took seconds to build, of so many of its profiles."""
    name = wanted.spec.name
    if took:
        yield (
            f"the tensorrt engine of {name} had to be built first, which took {took[0]:.0f} s; "
            "pathgene-rt build does that beforehand"
        )
    if ranges < len(wanted.profiles):
        largest = wanted.profiles[ranges - 1]["n"].highest
        yield (
            f"tensorrt could build {name} for bags of up to {largest:,} tiles only; for larger "
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


BACKEND = TensorRtBackend()
