"""Page-locked input buffers that go round: pinning takes milliseconds, every slide wants some."""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict, deque
from contextlib import ExitStack

import numpy as np

from pathgene_rt.engines.cuda.device import CudaDevice, PinnedMemory
from pathgene_rt.engines.engine import Array
from pathgene_rt.errors import EngineError


class PinnedRing:
    """Arrays in page-locked memory, which comes back when no array or view of it is held any more.

    Thread-safe. Memory: the most arrays held at a time, of the sizes asked for last.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._lent: dict[int, PinnedMemory] = {}
        self._free: defaultdict[int, list[PinnedMemory]] = defaultdict(list)
        self._returned: deque[int] = deque()
        self._closed = False

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An uninitialised C-contiguous array. Raises EngineError, also once closed.

        It stays valid memory when the ring is closed.
        """
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        with self._lock:
            if self._closed:
                raise EngineError(f"the input buffers on {self._device.name} are closed")
            self._take_back()
            memory = self._free[size].pop() if self._free[size] else self._pin(size)
            key = id(memory)
            self._lent[key] = memory
        # Of a memoryview, so that numpy makes this array the base of every view of it: it goes on
        # to the base's base as long as that is an array, too.
        whole = np.frombuffer(memory.bytes.data, np.uint8)
        # Called wherever the last view dies, so it must neither lock nor call CUDA.
        weakref.finalize(whole, self._returned.append, key)
        return whole[: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)

    def close(self) -> None:
        """Unpin all of it, within the current context; nothing that reads it may be outstanding.
        Idempotent."""
        with self._lock, ExitStack() as stack:
            self._closed = True
            for kept in (*self._free.values(), self._lent.values()):
                for memory in kept:
                    stack.callback(memory.close)
            self._free.clear()
            self._lent.clear()

    def _pin(self, size: int) -> PinnedMemory:
        """New memory, in place of what is free of other sizes: batches of another slide."""
        with self._device.current(f"pin {size:,} bytes for its input"):
            for kept in self._free.values():
                while kept:
                    kept.pop().close()
            return self._device.pin(size)

    def _take_back(self) -> None:
        while self._returned:
            memory = self._lent.pop(self._returned.popleft(), None)
            if memory is not None:
                self._free[len(memory.bytes)].append(memory)
