"""A GPU of numpy memory for the logic around one: it stands for no driver and no card.

Streams do their work only when they are waited for, so that whoever forgets to wait reads garbage.
Memory that was freed is gone: work that still uses it loses the device, as on a card. Every call
counts as a step, and a test may let any step fail.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from pathgene_rt.engines.cuda.errors import DeviceMemoryError, context_errors, native_errors
from pathgene_rt.engines.engine import Array

GARBAGE = 0xAB
LOST = "CUDA_ERROR_ILLEGAL_ADDRESS (700)"
ALIGNMENT = 256


Work = tuple[Callable[[], None], int]
"""What a stream does, and the address of the activations that it needs for itself, or 0."""


class CudaStepError(RuntimeError):
    """What a CUDA wrapper raises."""


class FakeGpu:
    """The card: memory, what is alive on it, and what goes wrong.

    ``free`` are the bytes that are left of ``total``, ``lost`` says why nothing works any more.
    ``calls`` are all steps by name, and what was closed and dropped, in order.
    """

    def __init__(self, *, total: int = 1 << 34, free: int | None = None) -> None:
        self.total = total
        self.free = total if free is None else free
        self.lost = ""
        self.failed = False
        self.calls: list[str] = []
        self.alive: list[object] = []
        self.steps = 0
        self._fail_at: int | None = None
        self._lose_at: int | None = None
        self._depth = threading.local()
        self._memory: dict[int, Array] = {}
        self._addresses = itertools.count(0x7000_0000_0000, 1 << 32)

    def fail_at_step(self, number: int) -> None:
        """Let the step of this number, from 1, fail; those after it work."""
        self._fail_at = number

    def lose_at_step(self, number: int) -> None:
        """Let nothing work from the step of this number on."""
        self._lose_at = number

    def step(self, name: str) -> None:
        """Called at the start of whatever happens on the card."""
        assert self.depth > 0, f"{name} without the device being current"
        self.calls.append(name)
        self.steps += 1
        if self.steps == self._lose_at:
            self.lost = LOST
        self.check()
        if self.steps == self._fail_at:
            self.failed = True
            raise CudaStepError(f"{name} failed: made to")

    def check(self) -> None:
        if self.lost:
            raise CudaStepError(f"an illegal memory access was encountered: {self.lost}")

    @property
    def depth(self) -> int:
        """How often the context is on the calling thread's stack."""
        return getattr(self._depth, "value", 0)

    def push(self, change: int) -> None:
        self._depth.value = self.depth + change

    def map(self, memory: Array) -> int:
        """The address at which the card sees ``memory`` from now on."""
        address = next(self._addresses)
        self._memory[address] = memory
        return address

    def unmap(self, address: int) -> None:
        del self._memory[address]

    def at(self, address: int, size: int) -> Array:
        """uint8 [size] of the memory there. Losing the device where there is none."""
        for start, memory in self._memory.items():
            if start <= address and address + size <= start + len(memory):
                return memory[address - start : address - start + size]
        self.lost = LOST
        self.check()
        raise AssertionError


class _Alive:
    """Something on the card that must be closed there."""

    kind = ""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        gpu.step(f"make {self.kind}")
        gpu.alive.append(self)

    def close(self) -> None:
        if self in self.gpu.alive:
            assert self.gpu.depth > 0, f"{self.kind} closed without the device being current"
            self.gpu.calls.append(f"close {self.kind}")
            self.gpu.alive.remove(self)
            self._closed()

    def _closed(self) -> None:
        pass

    @property
    def open(self) -> bool:
        return self in self.gpu.alive


class FakeMemory(_Alive):
    kind = "memory"

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        assert size > 0
        super().__init__(gpu)
        if size > gpu.free:
            gpu.alive.remove(self)
            raise DeviceMemoryError(f"fake cannot allocate {size:,} bytes: out of memory")
        gpu.free -= size
        self.size = size
        self.address = gpu.map(np.full(size, GARBAGE, np.uint8))

    def _closed(self) -> None:
        self.gpu.free += self.size
        self.gpu.unmap(self.address)


class FakePinned(_Alive):
    kind = "pinned memory"

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        super().__init__(gpu)
        self.bytes: Array = np.full(size, GARBAGE, np.uint8)
        self.address = gpu.map(self.bytes)

    def _closed(self) -> None:
        self.gpu.unmap(self.address)


class FakeEvent(_Alive):
    kind = "event"

    def __init__(self, stream: FakeStream) -> None:
        super().__init__(stream.gpu)
        self._stream = stream
        self._point: int | None = None

    def record(self) -> None:
        self.gpu.step("record")
        self._point = self._stream.given

    def synchronize(self) -> None:
        self.gpu.step("wait for event")
        assert self._point is not None, "waited for an event that was never recorded"
        self._stream.work_up_to(self._point)


class FakeGraph(_Alive):
    kind = "graph"

    def __init__(self, stream: FakeStream, work: list[Work]) -> None:
        super().__init__(stream.gpu)
        self._stream = stream
        self._work = work

    def launch(self) -> None:
        self.gpu.step("launch graph")
        assert self.open
        for one, activations in self._work:
            self._stream.give(one, activations)


class FakeStream(_Alive):
    """``given`` counts the work it was given so far."""

    kind = "stream"
    by_handle: ClassVar[dict[int, FakeStream]] = {}
    _handles = itertools.count(1)

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__(gpu)
        self.handle = next(self._handles)
        self.given = 0
        self.capturing: list[Work] | None = None
        self._done = 0
        self._waiting: list[Work] = []
        self.by_handle[self.handle] = self

    def give(self, work: Callable[[], None], activations: int = 0) -> None:
        """``activations`` is the address of those that the work needs for itself."""
        assert self.open, "work for a closed stream"
        if self.capturing is not None:
            self.capturing.append((work, activations))
            return
        for other in self.by_handle.values():
            in_use = {address for _, address in other._waiting} - {0}
            assert other is self or activations not in in_use, "two calls in the same activations"
        self.given += 1
        self._waiting.append((work, activations))

    def work_up_to(self, point: int) -> None:
        while self._done < point:
            self._done += 1
            work, _ = self._waiting.pop(0)
            work()

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def synchronize(self) -> None:
        self.gpu.step("wait for stream")
        self.work_up_to(self.given)

    def capture(self, enqueue: Callable[[int], None]) -> FakeGraph:
        self.gpu.step("capture")
        assert not self._waiting, "a capture begins once the stream is done"
        other = FakeStream(self.gpu)
        other.capturing = []
        try:
            enqueue(other.handle)
            return FakeGraph(self, other.capturing)
        finally:
            other.close()

    def _closed(self) -> None:
        assert not self._waiting or self.gpu.lost, "a stream was closed with work in it"
        del self.by_handle[self.handle]


class FakeDevice:
    """A :class:`~pathgene_rt.engines.cuda.device.CudaDevice` of a :class:`FakeGpu`."""

    name = "fake"
    index = 0

    def __init__(self, gpu: FakeGpu, *, captures_graphs: bool = True) -> None:
        self.gpu = gpu
        self.captures_graphs = captures_graphs

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        with native_errors(self.name, doing):
            self.gpu.push(1)
            try:
                with context_errors(self.name, doing):
                    yield
            finally:
                self.gpu.push(-1)

    def memory_info(self) -> tuple[int, int]:
        self.gpu.step("memory info")
        return self.gpu.free, self.gpu.total

    def stream(self) -> FakeStream:
        return FakeStream(self.gpu)

    def allocate(self, size: int) -> FakeMemory:
        return FakeMemory(self.gpu, size)

    def pin(self, size: int) -> FakePinned:
        return FakePinned(self.gpu, size)

    def upload(self, address: int, array: Array, stream: FakeStream) -> None:
        self.gpu.step("upload")
        assert array.flags.c_contiguous and array.nbytes > 0

        def work() -> None:
            self.gpu.at(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        stream.give(work)

    def download(self, array: Array, address: int, stream: FakeStream) -> None:
        self.gpu.step("download")

        def work() -> None:
            array.reshape(-1).view(np.uint8)[:] = self.gpu.at(address, array.nbytes)

        stream.give(work)
