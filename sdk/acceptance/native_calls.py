"""Which functions of native libraries the engines' own source called, from Python 3.12 on.

Wrapping native objects would change what is tested. The interpreter says itself what is called,
however a library is bound (pybind11, Boost.Python, Cython, ctypes), in all threads.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import CodeType
from typing import Any

RECORDS = sys.version_info >= (3, 12)
"""Whether this Python can tell (``sys.monitoring``, PEP 669)."""

LIBRARIES = {
    "cuda.core": "cuda.core",
    "nvidia.nvimgcodec": "nvimgcodec",
    "onnxruntime": "onnxruntime",
    "pycuda": "pycuda.driver",
    "tensorrt": "tensorrt",
    "tensorrt_bindings": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "tensorrt_rtx_bindings": "tensorrt_rtx",
}
"""Names for people by the package that a function or its class is defined in."""

DRIVER = "CUDA driver"
"""The library whose functions ctypes calls by their names in C."""


_FOREIGN = type(ctypes.pythonapi.Py_IncRef).__mro__[1]
"""The class of all functions that ctypes has loaded."""


class NativeCalls:
    """Records what code in files below ``root`` calls, from :meth:`start` to :meth:`stop`.

    Costs a callback for each call there: time nothing meanwhile. Records nothing before Python
    3.12 (:data:`RECORDS`).
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._below: dict[str, bool] = {}
        self._found: set[str] = set()

    def start(self) -> None:
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            tool, event = monitoring.PROFILER_ID, monitoring.events.CALL

            def called(code: CodeType, _offset: int, function: object, first: object) -> Any:
                if not self._is_ours(code.co_filename):
                    return monitoring.DISABLE
                if name := native_name(function, first):
                    self._found.add(name)
                return None

            monitoring.use_tool_id(tool, "pathgene-rt acceptance")
            monitoring.register_callback(tool, event, called)
            monitoring.set_events(tool, event)
            monitoring.restart_events()

    def stop(self) -> None:
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.NO_EVENTS)
            monitoring.free_tool_id(monitoring.PROFILER_ID)

    def found(self) -> list[str]:
        """Names as docs/gpu.md has them, e.g. "tensorrt.Builder.create_network"."""
        return sorted(self._found)

    def _is_ours(self, file: str) -> bool:
        if file not in self._below:
            self._below[file] = Path(file).is_relative_to(self._root)
        return self._below[file]


def native_name(function: Any, first: object) -> str:
    """The name of a function of :data:`LIBRARIES` that is called with ``first`` as its first
    argument, after its class if it is a method; empty for any other."""
    name = getattr(function, "__name__", "")
    if isinstance(function, _FOREIGN):
        return f"{DRIVER}.{name}" if name.startswith("cu") else ""
    if isinstance(function, type):
        return _in_library(function.__module__, name)
    # What it is bound to: pybind11 binds to a capsule, and gives the object as an argument.
    for owner in (getattr(function, "__self__", None), first):
        for one in (owner if isinstance(owner, type) else type(owner)).__mro__:
            # A class of ours may be one of the library's.
            found = _in_library(one.__module__, f"{one.__name__}.{name}")
            if found and hasattr(one, name):
                return found
    return _in_library(getattr(function, "__module__", None) or "", name)


def _in_library(module: str, name: str) -> str:
    for package, library in LIBRARIES.items():
        if module == package or module.startswith(f"{package}."):
            return f"{library}.{name}"
    return ""
