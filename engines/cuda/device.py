"""One GPU behind one small interface, whichever package drives it.

cuda.core where it is installed, because it captures CUDA graphs; else pycuda. Both use the GPU's
primary context, which TensorRT, ONNX Runtime and torch share. Contexts, streams, events, graphs
and kernels are the package's; memory and copies are the driver's own calls
(:mod:`~pathgene_rt.engines.cuda.device_memory`), because the pool behind cuda.core keeps what is
freed, where TensorRT cannot have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from pathgene_rt.engines.engine import Array


class Event(Protocol):
    """A point in the work of the stream that made it. Waiting for it leaves the processor free."""

    def record(self) -> None:
        """Make it the point that the stream has now been given work up to."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""

    def close(self) -> None: ...


class Graph(Protocol):
    """Work that was captured once and is enqueued on its stream in one call."""

    def launch(self) -> None: ...

    def close(self) -> None: ...


class Stream(Protocol):
    """Work in order, beside that of other streams; never CUDA's default stream."""

    @property
    def handle(self) -> int:
        """The ``CUstream``, as native libraries take it; not 0."""

    def event(self) -> Event: ...

    def synchronize(self) -> None:
        """Wait until all its work is done."""

    def capture(self, enqueue: Callable[[int], None]) -> Graph:
        """What ``enqueue`` puts into another stream, whose handle it is given, as a graph for this
        one; none of it runs, while work of other threads goes on.

        Only where the device captures graphs. Raises what ``enqueue`` raises, or what CUDA refuses.
        """

    def close(self) -> None: ...


class Kernel(Protocol):
    """A compiled kernel of ours, whose parameters are pointers to the device's memory."""

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        addresses: Sequence[int],
        stream: Stream,
    ) -> None:
        """Enqueue it on ``stream``, which this device made; 0 among ``addresses`` is null."""

    def close(self) -> None:
        """Unload it; nothing of it may be running. Idempotent."""


class DeviceMemory(Protocol):
    """``size`` bytes at ``address``, a multiple of 256."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...

    def close(self) -> None:
        """Free it; no work that uses it may be outstanding. Idempotent."""


class PinnedMemory(Protocol):
    """``bytes`` uint8 [size], page-locked: copied by the GPU itself, while others compute.

    Once closed it is ordinary memory, so arrays made of it stay valid as long as they are held.
    """

    @property
    def bytes(self) -> Array: ...

    @property
    def address(self) -> int:
        """Where the GPU finds it, a multiple of 256; valid until closed."""

    def close(self) -> None:
        """Let go of the pages; no work that uses them may be outstanding. Idempotent."""


class CudaDevice(Protocol):
    """A GPU's primary context. Shared by all engines on it, from any thread; never closed.

    Everything else of this interface, and whatever native libraries do on the GPU, happens within
    :meth:`current`; what was made is closed within it, too.
    """

    @property
    def name(self) -> str:
        """For people, e.g. "NVIDIA RTX A2000 12GB"."""

    @property
    def index(self) -> int: ...

    @property
    def captures_graphs(self) -> bool:
        """Whether its streams do."""

    def current(self, doing: str) -> AbstractContextManager[None]:
        """Make the context the calling thread's for the block, which does ``doing`` (for errors).

        What is raised in the block leaves it as EngineError: DeviceMemoryError, DeviceLostError.
        """

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes, other processes counted."""

    def stream(self) -> Stream: ...

    def kernel(self, ptx: bytes, name: str) -> Kernel:
        """The kernel that ``ptx`` declares ``extern "C"`` as ``name``, compiled for this GPU."""

    def allocate(self, size: int) -> DeviceMemory:
        """``size`` > 0 bytes on the device. Raises DeviceMemoryError."""

    def pin(self, size: int) -> PinnedMemory:
        """``size`` > 0 bytes of page-locked memory of the computer."""

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        """Enqueue a copy of ``array``, C-contiguous, to the device.

        It must live unmodified until the copy is done. Unless it is pinned, the call waits.
        """

    def download(self, array: Array, address: int, stream: Stream) -> None:
        """Enqueue a copy into ``array``, C-contiguous; as :meth:`upload`."""
