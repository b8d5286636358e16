"""The slots of several streams as one: a tile is read once and goes to several encoders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pathgene_rt.streaming.batcher import Slot
from pathgene_rt.streaming.encoder_service import TileStream


@dataclass(frozen=True)
class _SharedSlot(Slot):
    """The first stream's slot, and those of the ``others`` with the same number."""

    others: tuple[Slot, ...]


class SharedSlots:
    """:class:`~pathgene_rt.streaming.tile_reader.TileSlots` of ``streams``, which are of the same
    tiles in the same order, with none left out and none encoded. Thread-safe.

    Pixels are written to the first stream's buffer and copied to those of the others. A slot is
    there when each stream has one: the slowest encoder sets the pace.
    """

    def __init__(self, streams: Sequence[TileStream]) -> None:
        self._streams = streams
        self._lock = threading.Lock()  # not held to commit, which frees what acquire waits for
        self._begun: list[Slot] = []

    def acquire(self) -> Slot | None:
        with self._lock:
            return self._next(TileStream.acquire)

    def try_acquire(self) -> Slot | None:
        if not self._lock.acquire(blocking=False):  # whoever has it may be waiting for room
            return None
        try:
            return self._next(TileStream.try_acquire)
        finally:
            self._lock.release()

    def commit(self, slot: Slot) -> None:
        assert isinstance(slot, _SharedSlot)
        for stream, other in zip(self._streams[1:], slot.others, strict=True):
            other.rgb[:] = slot.rgb
            stream.commit(other)
        self._streams[0].commit(slot)

    def _next(self, take: Callable[[TileStream], Slot | None]) -> Slot | None:
        """The next slot of every stream; what some had is kept where another has none yet."""
        while len(self._begun) < len(self._streams):
            slot = take(self._streams[len(self._begun)])
            if slot is None:
                return None
            self._begun.append(slot)
        first, *others = self._begun
        self._begun = []
        return _SharedSlot(first.number, first.rgb, first.batch, tuple(others))
