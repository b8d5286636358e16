"""What engines and timings are kept under: everything that TensorRT's choices depend on."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version as installed_version

from pathgene_rt.engines.cache.keys import (
    LATER_CARDS,
    LATER_VERSIONS,
    EngineKey,
    GpuWords,
    gpu_words,
)
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.tensorrt.builder import Build
from pathgene_rt.engines.tensorrt.profiles import in_words
from pathgene_rt.options import Precision

NAME = "tensorrt"


def engine_key(build: Build, precision: Precision, version: str, gpu: GpuInfo) -> EngineKey:
    """The key of an engine that TensorRT ``version`` builds on ``gpu``.

    An engine for other cards or versions, too, is found there under the same key; what TensorRT
    does not take after all is built anew.
    """
    options = build.options
    flags = {name: str(value) for name, value in asdict(options).items() if name != "max_batch"}
    any_card: GpuWords = {
        "device": LATER_CARDS,
        "compute_capability": "",
        "sm_count": 0,
        "driver": "",
    }
    return EngineKey(
        backend=NAME,
        version=LATER_VERSIONS if options.version_compatible else version,
        onnx_sha256=build.spec.onnx_sha256,
        precision=precision,
        profiles=tuple(in_words(build.spec, profile) for profile in build.profiles),
        flags=tuple(sorted(flags.items())),
        product=installed_version("pathgene-rt"),
        **(gpu_words(gpu) if options.hardware_compatible == "none" else any_card),
    )


def timing_key(version: str, gpu: GpuInfo) -> EngineKey:
    """The key of what TensorRT ``version`` measured on ``gpu``, of whichever graph."""
    return EngineKey(content="timing cache", backend=NAME, version=version, **gpu_words(gpu))
