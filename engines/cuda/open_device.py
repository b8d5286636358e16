"""Opens a GPU with whichever package drives it here; all who ask for one share it."""

from __future__ import annotations

import importlib.util
import threading

from pathgene_rt.engines.cuda.device import CudaDevice
from pathgene_rt.engines.cuda.driver import cuda_devices, driver_problem
from pathgene_rt.errors import EngineUnavailableError

INSTALL = "pip install 'pathgene-rt[tensorrt]'"

_devices: dict[int, CudaDevice] = {}
_opening = threading.Lock()


def device_package() -> str:
    """The package that GPUs are driven with here: "cuda.core", "pycuda", or "" if neither is."""
    for package in ("cuda.core", "pycuda"):
        top = package.partition(".")[0]
        if importlib.util.find_spec(top) is not None and importlib.util.find_spec(package):
            return package
    return ""


def open_device(index: int = 0) -> CudaDevice:
    """The GPU number ``index``, as CUDA counts; the same object for all who ask.

    Raises EngineUnavailableError if there is none or no package to drive it with, EngineError.
    """
    with _opening:
        if index not in _devices:
            _devices[index] = _open(index)
        return _devices[index]


def _open(index: int) -> CudaDevice:
    if why := driver_problem():
        raise EngineUnavailableError(why)
    found = cuda_devices()
    if not 0 <= index < len(found):
        raise EngineUnavailableError(f"there is no GPU number {index}; CUDA counts {len(found)}")
    package = device_package()
    try:
        if package == "cuda.core":
            from pathgene_rt.engines.cuda.cuda_core_device import CudaCoreDevice

            return CudaCoreDevice(index, found[index].name)
        if package == "pycuda":
            from pathgene_rt.engines.cuda.pycuda_device import PyCudaDevice

            return PyCudaDevice(index, found[index].name)
    except ImportError as error:
        why = f"{package} cannot be loaded ({error}); {INSTALL}"
        raise EngineUnavailableError(why) from error
    raise EngineUnavailableError(f"neither cuda.core nor pycuda is installed; {INSTALL}")
