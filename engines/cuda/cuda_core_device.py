"""A GPU through NVIDIA's cuda.core.

Its objects know their context themselves, but every thread must be told the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pathgene_rt.engines.cuda.device import Stream as AnyStream
from pathgene_rt.engines.cuda.device_memory import MemoryCalls
from pathgene_rt.engines.cuda.errors import context_errors, native_errors

if TYPE_CHECKING:
    from cuda.core import Device, Event, Kernel, Stream
    from cuda.core.graph import Graph


class CudaCoreEvent:
    def __init__(self, device: Device, stream: Stream) -> None:
        self._stream = stream
        # Not of `stream.device`: that is another object in each thread, which must be told, too.
        self._event: Event = device.create_event({"blocking_sync": True})

    def record(self) -> None:
        self._stream.record(self._event)

    def synchronize(self) -> None:
        self._event.sync()

    def close(self) -> None:
        self._event.close()


class CudaCoreGraph:
    def __init__(self, graph: Graph, stream: Stream) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        self._graph.launch(self._stream)

    def close(self) -> None:
        self._graph.close()


class CudaCoreStream:
    def __init__(self, device: Device) -> None:
        from cuda.core import StreamOptions

        self._device = device
        self.native = device.create_stream(options=StreamOptions(nonblocking=True))

    @property
    def handle(self) -> int:
        return int(self.native.handle)

    def event(self) -> CudaCoreEvent:
        return CudaCoreEvent(self._device, self.native)

    def synchronize(self) -> None:
        self.native.sync()

    def capture(self, enqueue: Callable[[int], None]) -> CudaCoreGraph:
        # On a stream of its own: what fails must leave this one as it was.
        builder = self._device.create_graph_builder()
        try:
            # What other threads allocate meanwhile must not break it off.
            builder.begin_building("thread_local")
            enqueue(int(builder.stream.handle))
            graph = builder.end_building().complete()
        except BaseException:
            # Ends the capture, too, of which CUDA then only says that it has become invalid.
            with suppress(Exception):
                builder.close()
            raise
        builder.close()
        return CudaCoreGraph(graph, self.native)

    def close(self) -> None:
        self.native.close()


class CudaCoreKernel:
    def __init__(self, ptx: bytes, name: str) -> None:
        from cuda.core import ObjectCode

        # Its code is unloaded when nothing holds it any more.
        self._kernel: Kernel | None = ObjectCode.from_ptx(ptx).get_kernel(name)

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        addresses: Sequence[int],
        stream: AnyStream,
    ) -> None:
        from cuda.core import LaunchConfig, launch

        assert isinstance(stream, CudaCoreStream) and self._kernel is not None
        launch(stream.native, LaunchConfig(grid=grid, block=block), self._kernel, *addresses)

    def close(self) -> None:
        self._kernel = None


class CudaCoreDevice(MemoryCalls):
    """GPU number ``index``, called ``name``. Raises EngineError."""

    captures_graphs = True

    def __init__(self, index: int, name: str) -> None:
        from cuda.core import Device

        self.index, self.name = index, name
        with native_errors(name, "be opened by cuda.core"):
            self._device = Device(index)

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """The context stays the thread's afterwards, as torch and ONNX Runtime leave it, too."""
        with native_errors(self.name, doing):
            self._device.set_current()
            with context_errors(self.name, doing):
                yield

    def stream(self) -> CudaCoreStream:
        return CudaCoreStream(self._device)

    def kernel(self, ptx: bytes, name: str) -> CudaCoreKernel:
        return CudaCoreKernel(ptx, name)
