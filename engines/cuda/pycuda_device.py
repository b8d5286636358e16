"""A GPU through pycuda, which has no graphs.

The primary context is retained once and pushed around each use, never left on a thread's stack:
pycuda aborts a process that ends so. Its objects die inside the pushed block, because those that
die elsewhere are leaked (wrap_cudadrv.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pathgene_rt.engines.cuda.device import Graph, Stream
from pathgene_rt.engines.cuda.device_memory import MemoryCalls
from pathgene_rt.engines.cuda.errors import context_errors, native_errors
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import pycuda.driver as cuda

T = TypeVar("T")

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the default stream, which others may use."""


class PyCudaEvent:
    def __init__(self, stream: cuda.Stream) -> None:
        import pycuda.driver as cuda

        self._stream: cuda.Stream | None = stream
        flags = cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING
        self._event: cuda.Event | None = cuda.Event(flags)

    def record(self) -> None:
        _open(self._event).record(_open(self._stream))

    def synchronize(self) -> None:
        _open(self._event).synchronize()

    def close(self) -> None:
        self._event = self._stream = None


class PyCudaStream:
    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._stream: cuda.Stream | None = cuda.Stream(_NON_BLOCKING)

    @property
    def handle(self) -> int:
        return int(self.native.handle)

    @property
    def native(self) -> cuda.Stream:
        return _open(self._stream)

    def event(self) -> PyCudaEvent:
        return PyCudaEvent(self.native)

    def synchronize(self) -> None:
        self.native.synchronize()

    def capture(self, enqueue: Callable[[int], None]) -> Graph:  # noqa: ARG002 - see the module
        raise EngineError("pycuda captures no graphs; install cuda-core")

    def close(self) -> None:
        self._stream = None


class PyCudaKernel:
    def __init__(self, ptx: bytes, name: str) -> None:
        import pycuda.driver as cuda

        self._module: cuda.Module | None = cuda.module_from_buffer(ptx)
        self._function: cuda.Function | None = self._module.get_function(name)

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        addresses: Sequence[int],
        stream: Stream,
    ) -> None:
        assert isinstance(stream, PyCudaStream)
        # Not called: pycuda keeps what it made of the arguments of each call, for ever.
        function = _open(self._function).prepare("P" * len(addresses))
        function.prepared_async_call(grid, block, stream.native, *addresses)

    def close(self) -> None:
        self._function = self._module = None


class PyCudaDevice(MemoryCalls):
    """GPU number ``index``, called ``name``. Raises EngineError."""

    captures_graphs = False

    def __init__(self, index: int, name: str) -> None:
        import pycuda.driver as cuda

        self.index, self.name = index, name
        with native_errors(name, "be opened by pycuda"):
            cuda.init()
            self._context = cuda.Device(index).retain_primary_context()

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        import pycuda.driver as cuda

        with native_errors(self.name, doing):
            self._context.push()
            try:
                with context_errors(self.name, doing):
                    yield
            finally:
                cuda.Context.pop()

    def stream(self) -> PyCudaStream:
        return PyCudaStream()

    def kernel(self, ptx: bytes, name: str) -> PyCudaKernel:
        return PyCudaKernel(ptx, name)


def _open(thing: T | None) -> T:
    """``thing``, which :meth:`close` would have let go of."""
    if thing is None:
        raise EngineError("a stream, an event or a kernel was used after it was closed")
    return thing
