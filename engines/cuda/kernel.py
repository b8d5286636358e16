"""Kernels of our own, from PTX that the driver compiles for the card.

All of it is for the calling thread's current context. Raises CudaCallError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_void_p

from pathgene_rt.engines.cuda.device import Stream
from pathgene_rt.engines.cuda.driver import call

Argument = ctypes.c_int32 | ctypes.c_uint32 | ctypes.c_int64 | ctypes.c_uint64 | ctypes.c_float
"""As the kernel declares it; an address is a c_uint64."""


class Module:
    """Compiled PTX. Kernels of it must not run any more when it is closed."""

    def __init__(self, ptx: bytes) -> None:
        self._handle: c_void_p | None = c_void_p()
        call("cuModuleLoadData", byref(self._handle), ptx)

    def kernel(self, name: str) -> Kernel:
        """The kernel declared ``extern "C"`` as ``name``."""
        function = c_void_p()
        call("cuModuleGetFunction", byref(function), self._handle, name.encode())
        return Kernel(function)

    def close(self) -> None:
        """Unload it. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            call("cuModuleUnload", handle)


class Kernel:
    """Made by :meth:`Module.kernel`."""

    def __init__(self, function: c_void_p) -> None:
        self._function = function

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Argument],
        stream: Stream,
    ) -> None:
        """Enqueue it on ``stream``; the arguments are copied."""
        places = [ctypes.cast(ctypes.pointer(argument), c_void_p) for argument in arguments]
        packed = (c_void_p * len(places))(*places)
        call("cuLaunchKernel", self._function, *grid, *block, 0, stream.handle, packed, None)
