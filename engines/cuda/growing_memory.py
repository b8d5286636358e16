"""Memory that is as large as the largest call so far, and given back where that was large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pathgene_rt.engines.cuda.device import Stream


class Closeable(Protocol):
    def close(self) -> None: ...


Memory = TypeVar("Memory", bound=Closeable)


class Growing(Generic[Memory]):
    """Memory by ``allocate(size)`` for the work of one stream, made anew when it is too small.

    ``version`` changes whenever the memory does: addresses from before are void.
    """

    def __init__(self, allocate: Callable[[int], Memory], stream: Stream) -> None:
        self._allocate = allocate
        self._stream = stream
        self._memory: Memory | None = None
        self.size = 0
        self.version = 0

    def at_least(self, size: int) -> Memory:
        """``size`` bytes or more; never none, as native libraries take no address of nothing."""
        if self._memory is None or size > self.size:
            self.close()
            wanted = max(1, size)
            self._memory = self._allocate(wanted)
            self.size = wanted
        return self._memory

    def give_back_above(self, size: int) -> None:
        """Free it if it is larger than ``size`` bytes."""
        if self.size > size:
            self.close()

    def close(self) -> None:
        """Free it, once the stream's work is done. It may grow again."""
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        self.size = 0
        self.version += 1
        try:
            self._stream.synchronize()
        finally:
            memory.close()
