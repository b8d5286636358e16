"""A GPU's interface on the computer's memory, to run our logic with ONNX Runtime's CPU provider.

Copies are made at once, and addresses are the computer's, so that a real session computes on them
through the same bindings. It says nothing about CUDA, which it is no test of.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from pathgene_rt.engines.cuda.errors import DeviceMemoryError, is_out_of_memory
from pathgene_rt.errors import EngineError


class Resource:
    """Something that was made on ``card`` and is to be closed, while the card is current."""

    def __init__(self, card: HostCard, kind: str) -> None:
        card.make(kind)
        self._card, self._kind = card, kind
        card.open.append(self)

    def close(self) -> None:
        self._card.require_current()
        if self in self._card.open:
            self._card.open.remove(self)


class HostEvent(Resource):
    def __init__(self, card: HostCard) -> None:
        super().__init__(card, "event")

    def record(self) -> None:
        self._card.did("record")

    def synchronize(self) -> None:
        self._card.did("wait")


class HostStream(Resource):
    def __init__(self, card: HostCard) -> None:
        super().__init__(card, "stream")
        self.handle = 1 + id(self)

    def event(self) -> HostEvent:
        return HostEvent(self._card)

    def synchronize(self) -> None:
        self._card.did("drain")


class HostMemory(Resource):
    def __init__(self, card: HostCard, size: int, kind: str) -> None:
        super().__init__(card, kind)
        self.bytes = np.empty(size, np.uint8)
        self.address, self.size = self.bytes.ctypes.data, size


class HostCard:
    """``free`` bytes are reported free; making number ``fails_at`` fails; ``log`` tells what was
    done, in order; ``open`` is what was not closed yet.
    """

    name, index, captures_graphs = "a host card", 0, False

    def __init__(self, free: int = 1 << 34, fails_at: int | None = None) -> None:
        self.free = free
        self.fails_at = fails_at
        self.made = 0
        self.log: list[str] = []
        self.open: list[Resource] = []
        self._current = 0

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        self._current += 1
        try:
            yield
        except EngineError as error:
            if is_out_of_memory(str(error)):
                raise DeviceMemoryError(f"{self.name} cannot {doing}: {error}") from error
            raise
        finally:
            self._current -= 1

    def require_current(self) -> None:
        assert self._current > 0, "used where the card is not current"

    def make(self, kind: str) -> None:
        self.require_current()
        self.made += 1
        if self.made == self.fails_at:
            raise EngineError(f"no {kind}")

    def did(self, what: str) -> None:
        self.require_current()
        self.log.append(what)

    def memory_info(self) -> tuple[int, int]:
        self.require_current()
        return self.free, self.free

    def stream(self) -> HostStream:
        return HostStream(self)

    def allocate(self, size: int) -> HostMemory:
        return HostMemory(self, size, "memory")

    def pin(self, size: int) -> HostMemory:
        return HostMemory(self, size, "pinned")

    def upload(self, address: int, array: np.ndarray, stream: HostStream) -> None:
        assert array.flags.c_contiguous and stream in self.open
        self.did("upload")
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int, stream: HostStream) -> None:
        assert array.flags.c_contiguous and stream in self.open
        self.did("download")
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def capture(self, stream: HostStream, enqueue: Callable[[], None]) -> None:
        raise AssertionError("ONNX Runtime captures its own graphs")
