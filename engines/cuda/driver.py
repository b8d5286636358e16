"""The CUDA driver's own library through ctypes: which GPUs there are, and calls by name.

Needs no Python package, so that it also tells of GPUs that no installed engine can use.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_NAME_BYTES = 256
_SM_COUNT, _CC_MAJOR, _CC_MINOR = 16, 75, 76
"""Of CUdevice_attribute."""

_INSTALL = "install NVIDIA's driver for this GPU (nvidia-smi then lists it)"

_ADVICE = {
    100: "no CUDA GPU is installed, or CUDA_VISIBLE_DEVICES hides it",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    802: "the system is not ready (with NVSwitch: start nvidia-fabricmanager)",
    803: "the driver's library and its kernel module differ: restart the computer",
    804: "this GPU does not support the CUDA compatibility package: remove it, update the driver",
}
"""By CUresult of cuInit."""

_CAPTURING = 900
"""CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED."""

_OUT = POINTER(c_int)
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_OUT,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (_OUT,),
    "cuDeviceGet": (_OUT, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDeviceGetAttribute": (_OUT, c_int, c_int),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (POINTER(c_uint64), c_void_p, c_uint),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
}


@dataclass(frozen=True)
class GpuInfo:
    """One GPU that the driver sees.

    ``index`` as CUDA counts, ``compute_capability`` (major, minor), ``memory_total`` bytes,
    ``sm_count`` streaming multiprocessors, ``driver_version`` the newest CUDA (major, minor) that
    the driver serves.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_total: int
    sm_count: int
    driver_version: tuple[int, int]


class CudaCallError(Exception):
    """A driver call that failed, with CUDA's ``code`` and its ``symbol``."""

    def __init__(self, function: str, code: int) -> None:
        self.code = code
        self.symbol = error_symbol(code)
        super().__init__(f"{function} failed with {self.symbol} ({code})")


@cache
def library() -> ctypes.CDLL:
    """The driver's library with its functions typed. Raises OSError if there is none."""
    loaded = ctypes.CDLL(LIBRARY)
    for name, arguments in _PROTOTYPES.items():
        function = getattr(loaded, name, None)
        if function is None:
            raise OSError(f"{LIBRARY} has no {name}: the driver is too old")
        function.argtypes, function.restype = arguments, c_int
    return loaded


def call(function: str, *arguments: Any) -> None:
    """Call ``function`` of the library. Raises CudaCallError unless it succeeds; OSError."""
    code = getattr(library(), function)(*arguments)
    if code != 0:
        raise CudaCallError(function, code)


def error_symbol(code: int) -> str:
    """CUDA's name for ``code``, e.g. "CUDA_ERROR_OUT_OF_MEMORY"."""
    name = c_char_p()
    if library().cuGetErrorName(code, byref(name)) != 0 or name.value is None:
        return "an unknown error"
    return name.value.decode()


def context_failure() -> str:
    """What has made the calling thread's current context unusable, or an empty string.

    After an error such as an illegal address every call on the context fails with it, also this
    one, which waits for the context's work; after one such as out of memory none does. While
    another thread captures a graph the context works, but nobody may wait for it.
    """
    code = library().cuCtxSynchronize()
    return "" if code in (0, _CAPTURING) else f"{error_symbol(code)} ({code})"


def cuda_devices() -> tuple[GpuInfo, ...]:
    """The GPUs that the driver sees; none if there is no driver or it fails. Never raises."""
    try:
        return _devices()
    except (OSError, CudaCallError):
        return ()


def driver_problem() -> str:
    """Why :func:`cuda_devices` finds none and what to do, or an empty string. Never raises."""
    try:
        return "" if _devices() else f"the NVIDIA driver sees no GPU: {_ADVICE[100]}"
    except OSError as error:
        return f"there is no NVIDIA driver ({error}); {_INSTALL}"
    except CudaCallError as error:
        return f"the NVIDIA driver does not work ({error}): {_ADVICE.get(error.code, _INSTALL)}"


def _devices() -> tuple[GpuInfo, ...]:
    call("cuInit", 0)
    version = _int("cuDriverGetVersion")
    return tuple(_device(index, version) for index in range(_int("cuDeviceGetCount")))


def _device(index: int, version: int) -> GpuInfo:
    handle = c_int()
    call("cuDeviceGet", byref(handle), index)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    call("cuDeviceGetName", name, _NAME_BYTES, handle)
    memory = c_size_t()
    call("cuDeviceTotalMem_v2", byref(memory), handle)

    def attribute(which: int) -> int:
        return _int("cuDeviceGetAttribute", which, handle)

    return GpuInfo(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=(attribute(_CC_MAJOR), attribute(_CC_MINOR)),
        memory_total=memory.value,
        sm_count=attribute(_SM_COUNT),
        driver_version=(version // 1000, version % 1000 // 10),
    )


def _int(function: str, *arguments: Any) -> int:
    """What ``function`` writes to the int that its first argument points to."""
    value = c_int()
    call(function, byref(value), *arguments)
    return value.value
