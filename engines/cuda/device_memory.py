"""Memory of a GPU and of the computer beside it, by the driver's own calls.

All of it is for the calling thread's current context. Raises CudaCallError, which
:meth:`CudaDevice.current` turns into an EngineError.
"""

from __future__ import annotations

import mmap
from ctypes import byref, c_size_t, c_uint64

import numpy as np

from pathgene_rt.engines.cuda.device import Stream
from pathgene_rt.engines.cuda.driver import call
from pathgene_rt.engines.cuda.errors import native_errors
from pathgene_rt.engines.engine import Array

_MAP_INTO_DEVICE = 2
"""CU_MEMHOSTREGISTER_DEVICEMAP: kernels may read the pages over the bus."""


class AllocatedMemory:
    """``size`` bytes by cuMemAlloc, which aligns them for any use."""

    def __init__(self, size: int) -> None:
        address = c_uint64()
        call("cuMemAlloc_v2", byref(address), size)
        self.address, self.size = address.value, size

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            call("cuMemFree_v2", address)


class RegisteredMemory:
    """Pages of numpy's that are locked until closed: arrays of them outlive that unharmed.

    Whole pages, so that no other memory comes to lie in them.
    """

    def __init__(self, size: int) -> None:
        length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = np.empty(length + mmap.PAGESIZE, np.uint8)
        start = -memory.ctypes.data % mmap.PAGESIZE
        self.bytes: Array = memory[start : start + size]
        self._host = self.bytes.ctypes.data
        call("cuMemHostRegister_v2", self._host, length, _MAP_INTO_DEVICE)
        address = c_uint64()
        try:
            call("cuMemHostGetDevicePointer_v2", byref(address), self._host, 0)
        except BaseException:
            self.close()
            raise
        self.address = address.value

    def close(self) -> None:
        host, self._host = self._host, 0
        if host:
            call("cuMemHostUnregister", host)


class MemoryCalls:
    """The part of a :class:`~pathgene_rt.engines.cuda.device.CudaDevice` about memory."""

    name: str

    def memory_info(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> AllocatedMemory:
        # Here, because callers have another way out.
        with native_errors(self.name, f"allocate {size:,} bytes"):
            return AllocatedMemory(size)

    def pin(self, size: int) -> RegisteredMemory:
        return RegisteredMemory(size)

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream.handle)

    def download(self, array: Array, address: int, stream: Stream) -> None:
        call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream.handle)
