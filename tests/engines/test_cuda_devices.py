"""How the two packages that drive a GPU are used, with modules of their shape that record it."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pathgene_rt.engines.cuda import errors
from pathgene_rt.engines.cuda.cuda_core_device import CudaCoreDevice
from pathgene_rt.engines.cuda.errors import DeviceLostError, DeviceMemoryError
from pathgene_rt.engines.cuda.pycuda_device import PyCudaDevice
from pathgene_rt.errors import EngineError


class Stack(threading.local):
    """The contexts that are current on a thread."""

    depth = 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(errors, "context_failure", lambda: "")
    return []


@pytest.fixture
def pycuda(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Stack]:
    """(a device, the contexts on each thread): the module of pycuda.driver records into calls."""
    stack = Stack()

    class Context:
        def push(self) -> None:
            stack.depth += 1

        @staticmethod
        def pop() -> None:
            stack.depth -= 1

    class Thing:
        def __init__(self, *arguments: int) -> None:
            assert stack.depth == 1
            calls.append((type(self).__name__, *arguments))
            # Where pycuda would leak it.
            weakref.finalize(self, lambda: calls.append(("died", stack.depth)))

    class Stream(Thing):
        handle = 0x1234

        def synchronize(self) -> None:
            calls.append("stream.synchronize")

    class Event(Thing):
        def record(self, stream: Stream) -> None:
            assert isinstance(stream, Stream)
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("event.synchronize")

    class Function(Thing):
        def prepare(self, types: str) -> Function:
            self.types = types
            return self

        def prepared_async_call(
            self, grid: Any, block: Any, stream: Stream, *addresses: int
        ) -> None:
            assert isinstance(stream, Stream) and self.types == "P" * len(addresses)
            calls.append(("run", grid, block, addresses))

    class Module(Thing):
        def get_function(self, name: str) -> Function:
            return Function(name)  # type: ignore[arg-type]

    class Device:
        def __init__(self, number: int) -> None:
            assert "init" in calls

        def retain_primary_context(self) -> Context:
            calls.append("retain")
            return Context()

    module = ModuleType("pycuda.driver")
    module.__dict__.update(
        init=lambda: calls.append("init"),
        Context=Context,
        Device=Device,
        Stream=Stream,
        Event=Event,
        module_from_buffer=Module,
        event_flags=SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2),
    )
    package = ModuleType("pycuda")
    package.driver = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    return PyCudaDevice(0, "fake"), stack


def test_pycuda_pushes_the_primary_context_around_each_use(
    pycuda: tuple[Any, Stack], calls: list[Any]
):
    device, stack = pycuda
    assert calls == ["init", "retain"]
    assert stack.depth == 0
    with device.current("work"):
        assert stack.depth == 1
        with device.current("work within"):
            assert stack.depth == 2
    with pytest.raises(EngineError, match="fake cannot work: broken"), device.current("work"):
        raise RuntimeError("broken")
    assert stack.depth == 0
    assert device.captures_graphs is False
    assert "pycuda.autoinit" not in sys.modules


def test_pycuda_objects_die_where_the_context_is_current(
    pycuda: tuple[Any, Stack], calls: list[Any]
):
    device, _ = pycuda
    with device.current("work"):
        stream = device.stream()
        event = stream.event()
        event.record()
        event.synchronize()
        stream.synchronize()
        assert stream.handle == 0x1234
        del calls[:2]
        assert calls == [
            ("Stream", 1),
            ("Event", 3),
            "record",
            "event.synchronize",
            "stream.synchronize",
        ]
    kept = []

    def close() -> None:
        with device.current("close"):
            event.close()
            stream.close()
            stream.close()
        kept.append(stream)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert calls[5:] == [("died", 1), ("died", 1)]
    with device.current("work"), pytest.raises(EngineError, match="after it was closed"):
        stream.synchronize()
    with device.current("work"), pytest.raises(EngineError, match="pycuda captures no graphs"):
        device.stream().capture(lambda handle: None)


@pytest.fixture
def cuda_core(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device of a module of cuda.core's shape that records into calls."""

    class Closing:
        def close(self) -> None:
            calls.append(f"close {type(self).__name__}")

    class Graph(Closing):
        def launch(self, stream: Stream) -> None:
            calls.append("launch")

    class GraphBuilder(Closing):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def begin_building(self, mode: str) -> None:
            calls.append(("begin", mode))

        def end_building(self) -> GraphBuilder:
            calls.append("end")
            return self

        def close(self) -> None:
            super().close()
            if calls.count("end") < sum(call == ("begin", "thread_local") for call in calls):
                raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

        def complete(self) -> Graph:
            return Graph()

    class Event(Closing):
        def sync(self) -> None:
            calls.append("event.sync")

    class Stream(Closing):
        handle = 0x1234

        @property
        def device(self) -> Device:
            return Device(0)

        def record(self, event: Event) -> None:
            calls.append("record")

        def sync(self) -> None:
            calls.append("stream.sync")

    class ObjectCode:
        def __init__(self, ptx: bytes) -> None:
            self.ptx = ptx

        @classmethod
        def from_ptx(cls, ptx: bytes) -> ObjectCode:
            return cls(ptx)

        def get_kernel(self, name: str) -> tuple[bytes, str]:
            return self.ptx, name

    def launch(stream: Stream, config: Any, kernel: tuple[bytes, str], *addresses: int) -> None:
        assert isinstance(stream, Stream) and kernel == (b"the PTX", "add")
        calls.append(("run", config.grid, config.block, addresses))

    of_thread = threading.local()

    class Device:
        """One object a thread, each to be told that it is current: as cuda.core 1.2.2 has it."""

        told = False

        def __new__(cls, number: int) -> Device:
            if not hasattr(of_thread, "device"):
                of_thread.device = super().__new__(cls)
            found: Device = of_thread.device
            return found

        def set_current(self) -> None:
            self.told = True
            calls.append(("current", threading.get_ident()))

        def create_stream(self, *, options: Any) -> Stream:
            assert self.told and options.nonblocking
            return Stream()

        def create_graph_builder(self) -> GraphBuilder:
            assert self.told
            other = Stream()
            other.handle = 0x5678
            return GraphBuilder(other)

        def create_event(self, options: dict[str, bool]) -> Event:
            assert self.told, "perhaps you forgot to call .set_current() first?"
            calls.append(("event", options))
            return Event()

    module, graph = ModuleType("cuda.core"), ModuleType("cuda.core.graph")
    module.__dict__.update(
        Device=Device,
        Stream=Stream,
        Event=Event,
        StreamOptions=SimpleNamespace,
        ObjectCode=ObjectCode,
        LaunchConfig=SimpleNamespace,
        launch=launch,
    )
    graph.Graph = Graph  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", module)
    monkeypatch.setitem(sys.modules, "cuda.core.graph", graph)
    return CudaCoreDevice(0, "fake")


def test_cuda_core_is_told_the_device_in_every_thread(cuda_core: Any, calls: list[Any]):
    def use() -> None:
        with cuda_core.current("work"):
            pass

    thread = threading.Thread(target=use)
    use()
    thread.start()
    thread.join()
    assert len({ident for _, ident in calls}) == 2
    with pytest.raises(EngineError, match="fake cannot work: broken"), cuda_core.current("work"):
        raise RuntimeError("broken")


def test_cuda_core_streams_events_and_graphs(cuda_core: Any, calls: list[Any]):
    with cuda_core.current("work"):
        stream = cuda_core.stream()
        event = stream.event()
        event.record()
        event.synchronize()
        graph = stream.capture(lambda handle: calls.append(("enqueued", handle)))
        graph.launch()
        for thing in (graph, event, stream):
            thing.close()
    assert calls[1:] == [
        ("event", {"blocking_sync": True}),
        "record",
        "event.sync",
        ("begin", "thread_local"),
        ("enqueued", 0x5678),
        "end",
        "close GraphBuilder",
        "launch",
        "close Graph",
        "close Event",
        "close Stream",
    ]


def test_cuda_core_makes_events_in_threads_that_did_not_open_the_device(
    cuda_core: Any, calls: list[Any]
):
    def use() -> None:
        with cuda_core.current("work"):
            cuda_core.stream().event().record()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert calls[1:] == [("event", {"blocking_sync": True}), "record"]


def test_a_capture_that_fails_is_closed_and_says_why(cuda_core: Any, calls: list[Any]):
    def refuse(handle: int) -> None:
        raise RuntimeError("not while capturing")

    with cuda_core.current("work"):
        stream = cuda_core.stream()
        with pytest.raises(RuntimeError, match="not while capturing"):
            stream.capture(refuse)
    assert calls[1:] == [("begin", "thread_local"), "close GraphBuilder"]


@pytest.mark.parametrize("name", ["pycuda", "cuda_core"])
def test_kernels_are_given_addresses_on_a_stream(
    name: str, calls: list[Any], request: pytest.FixtureRequest
):
    found = request.getfixturevalue(name)
    device = found[0] if name == "pycuda" else found
    with device.current("run a kernel"):
        stream, kernel = device.stream(), device.kernel(b"the PTX", "add")
        kernel.launch((2, 3, 1), (256, 1, 1), [1 << 40, 0], stream)
        kernel.close()
        kernel.close()
        with pytest.raises((EngineError, AssertionError)):
            kernel.launch((2, 3, 1), (256, 1, 1), [1 << 40, 0], stream)
        stream.close()
    run = [call for call in calls if call[0] == "run"]
    assert run == [("run", (2, 3, 1), (256, 1, 1), (1 << 40, 0))]
    # pycuda leaks what dies elsewhere: the stream, the kernel and its module.
    assert calls.count(("died", 1)) == (3 if name == "pycuda" else 0)


@pytest.mark.parametrize("name", ["pycuda", "cuda_core"])
def test_errors_leave_as_ours(name: str, request: pytest.FixtureRequest, monkeypatch: Any):
    found = request.getfixturevalue(name)
    device = found[0] if name == "pycuda" else found

    def raised(error: Exception) -> Callable[[], None]:
        with device.current("run"):
            raise error

    with pytest.raises(DeviceMemoryError, match="fake cannot run: cuMemAlloc failed: out of mem"):
        raised(RuntimeError("cuMemAlloc failed: out of memory"))
    monkeypatch.setattr(errors, "context_failure", lambda: "CUDA_ERROR_LAUNCH_FAILED (719)")
    with pytest.raises(DeviceLostError, match=r"fake was lost .*CUDA_ERROR_LAUNCH_FAILED \(719\)"):
        raised(RuntimeError("cuStreamSynchronize failed: unspecified launch failure"))
