"""Whether ONNX Runtime can compute on an NVIDIA card here, found out by letting it do so.

``get_available_providers()`` lists what a wheel was built with, whether or not the CUDA and
TensorRT libraries that it needs are on the machine. Asked for a provider that it cannot load, ONNX
Runtime logs so and makes a session on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path

import numpy as np
from packaging.version import Version

from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cuda.driver import cuda_devices, driver_problem
from pathgene_rt.engines.cuda.memory_plan import batches_to_try
from pathgene_rt.engines.cuda.open_device import device_package
from pathgene_rt.engines.onnxruntime.runner import ONLY_FATAL, native_errors
from pathgene_rt.errors import EngineError

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

_FIRST = Version("1.24")
"""The first version that tells which nodes of a graph run where."""

_INSTALL = "pip install 'pathgene-rt[gpu]'"
_WARNINGS = 2
"""The log severity that ONNX Runtime begins with."""

_WINDOWS = platform.system() == "Windows"
_TENSORRT_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
"""In this order: the others need the first."""

_LIBRARIES = {CUDA: "onnxruntime_providers_cuda", TENSORRT: "onnxruntime_providers_tensorrt"}

_RELU = (
    b'\x08\t:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""An ONNX graph (opset 18) of one operator: x float32 [1] to y = max(x, 0)."""


def probe(provider: str) -> Availability:
    """Whether ``provider`` computes on the first card here. Never raises."""
    if why := driver_problem():
        return Availability(False, why)
    if importlib.util.find_spec("onnxruntime") is None:
        return Availability(False, f"not installed; {_INSTALL}")
    try:
        with native_errors("be loaded"):
            from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

            version, offered = onnxruntime.__version__, onnxruntime.get_available_providers()
    except EngineError as error:
        return Availability(False, f"{error}; pip install --force-reinstall onnxruntime-gpu")
    if why := _unusable(provider, version, offered):
        return Availability(False, why, version)
    card = cuda_devices()[0]
    batches = batches_to_try(card.memory_total)
    return Availability(True, "", version, (card.name,), ("float32", "float16"), batches)


def _unusable(provider: str, version: str, offered: Sequence[str]) -> str:
    if provider not in offered:
        return (
            f"the onnxruntime {version} installed is without {provider}; "
            f"pip uninstall onnxruntime, then {_INSTALL}"
        )
    if Version(version) < _FIRST:
        return f"onnxruntime-gpu {version} is too old, {_FIRST} or newer is needed; {_INSTALL}"
    if not device_package():
        return f"neither cuda.core nor pycuda is installed; {_INSTALL}"
    return _trial(provider)


@cache
def _trial(provider: str) -> str:
    """Why a session on ``provider`` cannot be opened and run, or an empty string.

    Once a process: it loads libraries of hundreds of megabytes and makes a CUDA context.
    """
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    with quiet():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ONLY_FATAL
        # TensorRT would take seconds to build the graph; it leaves one so small to CUDA.
        small = (TENSORRT, {"trt_min_subgraph_size": "2"})
        providers = [CUDA] if provider == CUDA else [small, CUDA]
        try:
            with native_errors("compute on the GPU"):
                preload(provider)
                session = onnxruntime.InferenceSession(
                    _RELU, options, providers=providers, enable_fallback=0
                )
                if provider in session.get_providers():
                    # The wheel holds machine code for some generations of cards only.
                    session.run(["y"], {"x": np.ones(1, np.float32)})
                    return ""
        except EngineError as error:
            return _unloadable(provider) or str(error)
        return _unloadable(provider) or (
            f"ONNX Runtime made a session without {provider} and does not say why; {_INSTALL}"
        )


def _unloadable(provider: str) -> str:
    """Why the library of ``provider`` cannot be loaded and what to do, or an empty string.

    For a provider that failed: registering its library fails with the reason that making a session
    only logs.
    """
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    pattern = "{}.dll" if _WINDOWS else "lib{}.so"
    file = Path(onnxruntime.__file__).parent / "capi" / pattern.format(_LIBRARIES[provider])
    try:
        # By another name: sessions look for a provider among those that are registered, too.
        onnxruntime.register_execution_provider_library(f"{provider} on trial", str(file))
    except Exception as error:  # noqa: BLE001 - its classes have no base that can be named
        reason = str(error).rpartition("error: ")[2].splitlines()[0]
        hint = _INSTALL if provider == CUDA else f"{_INSTALL} 'tensorrt-cu13<11'"
        return f"{provider} cannot be loaded ({reason}); {hint}"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime from printing what this package says itself, as one line.

    Its Python part prints to the standard output, its process-wide log to the standard error. The
    log's level cannot be asked for; afterwards it is ONNX Runtime's own default again.
    """
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    onnxruntime.set_default_logger_severity(ONLY_FATAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)


def preload(provider: str) -> None:
    """Load the libraries of NVIDIA's wheels, so that the provider finds them where no path leads.

    What is not there is left to the loader's own search. Without effect if loaded already.
    """
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    for folder in ("", *_folders("nvidia", "*/lib", "*/bin", "*/bin/x86_64")):
        onnxruntime.preload_dlls(msvc=False, directory=folder)
    if provider == TENSORRT:
        for name in _TENSORRT_LIBRARIES:
            for folder in _folders("tensorrt_libs", "."):
                with suppress(OSError):  # then the trial says what is missing
                    ctypes.CDLL(str(Path(folder) / _file(name)))


def tensorrt_version() -> str:
    """The version of the TensorRT that the provider uses, e.g. "10.13.3"; it must be available."""
    number = int(ctypes.CDLL(_file(_TENSORRT_LIBRARIES[0])).getInferLibVersion())
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _file(library: str) -> str:
    """The file name of a library of TensorRT 10."""
    return f"{library}_10.dll" if _WINDOWS else f"lib{library}.so.10"


def _folders(package: str, *patterns: str) -> list[str]:
    """The folders of an installed package that match; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations if spec else None) or ()
    return [
        str(folder)
        for root in roots
        for pattern in patterns
        for folder in sorted(Path(root).glob(pattern))
        if folder.is_dir()
    ]
