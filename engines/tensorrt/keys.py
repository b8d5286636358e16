"""What engines and timings are kept under: everything that TensorRT's choices depend on."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version as installed_version

from pathgene_rt.engines.cache.keys import (
    ITS_GENERATION,
    LATER_CARDS,
    LATER_VERSIONS,
    EngineKey,
    GpuWords,
    gpu_words,
)
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.tensorrt.builder import Build
from pathgene_rt.engines.tensorrt.library import TENSORRT, card_in_words
from pathgene_rt.engines.tensorrt.profiles import in_words
from pathgene_rt.options import Precision


def engine_key(build: Build, precision: Precision, version: str, gpu: GpuInfo) -> EngineKey:
    """The key of an engine that ``build.library`` in ``version`` builds for ``gpu``.

    An engine for other cards or versions, too, is found there under the same key; what the library
    does not take after all is built anew.
    """
    options = build.options
    flags = {name: str(value) for name, value in asdict(options).items() if name != "max_batch"}
    return EngineKey(
        backend=build.library.backend,
        version=LATER_VERSIONS if options.version_compatible else version,
        onnx_sha256=build.spec.onnx_sha256,
        precision=precision,
        profiles=tuple(in_words(build.spec, profile) for profile in build.profiles),
        flags=tuple(sorted(flags.items())),
        product=installed_version("pathgene-rt"),
        **_cards(build, gpu),
    )


def _cards(build: Build, gpu: GpuInfo) -> GpuWords:
    """For which cards the engine is, of which ``gpu`` is one."""
    several: GpuWords = {"device": "", "compute_capability": "", "sm_count": 0, "driver": ""}
    if build.library.ahead_of_time:
        generation = card_in_words(gpu.compute_capability)
        return {**several, "device": ITS_GENERATION, "compute_capability": generation}
    if build.options.hardware_compatible == "none":
        return gpu_words(gpu)
    return {**several, "device": LATER_CARDS}


def kernels_key(engine: EngineKey, gpu: GpuInfo) -> EngineKey:
    """The key of what is compiled of an engine on ``gpu``, with its driver."""
    return replace(engine, content="kernels", **gpu_words(gpu))


def timing_key(version: str, gpu: GpuInfo) -> EngineKey:
    """The key of what TensorRT ``version`` measured on ``gpu``, of whichever graph."""
    return EngineKey(
        content="timing cache", backend=TENSORRT.backend, version=version, **gpu_words(gpu)
    )
