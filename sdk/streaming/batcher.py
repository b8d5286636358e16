"""Where file and scanner meet: producers fill tile slots, the encoder takes whole batches.

A slot is a view into the engine's own input buffer, so a tile is decoded straight into the memory
that the engine reads. Buffers circulate: free -> being filled -> ready -> in the engine -> free.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pathgene_rt.engine import Engine
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.streaming.cancellation import CancellationToken

# Ctrl-C reaches a waiting main thread only between waits on Windows; elsewhere this never matters,
# since every change of state notifies.
_INTERRUPTIBLE_S = 0.5


@dataclass
class Batch:
    """Tiles ``first`` to ``first + count`` of the slide; ``rgb`` uint8 [capacity, p, p, 3]."""

    rgb: UInt8Array
    first: int = 0
    count: int = 0
    uncommitted: int = 0

    @property
    def tiles(self) -> UInt8Array:
        """uint8 [count, p, p, 3]: the filled part, which the engine gets."""
        return self.rgb[: self.count]


@dataclass(frozen=True)
class Slot:
    """Room for tile number ``number`` of the slide: write ``rgb`` uint8 [p, p, 3], then commit."""

    number: int
    rgb: UInt8Array
    batch: Batch = field(repr=False)


class TileBatcher:
    """Hands out slots in order to any number of producer threads, and full batches to one consumer.

    Memory is bounded: ``in_flight`` batches in the engine, and ``ahead`` being filled or ready;
    a producer waits when all are taken. ``total`` is the number of tiles if known, else producers
    call :meth:`finish`.
    """

    def __init__(
        self,
        engine: Engine,
        tile_px: int,
        capacity: int,
        token: CancellationToken,
        *,
        total: int | None = None,
        ahead: int = 2,
    ) -> None:
        if total is not None:
            capacity = max(1, min(capacity, total))
        self._capacity = capacity
        self._token = token
        self._total = total
        self._changed = threading.Condition()
        self._next = 0
        self._filling: Batch | None = None
        self._ready: deque[Batch] = deque()
        self._taken = 0
        name = engine.spec.inputs[0].name
        shape = (capacity, tile_px, tile_px, 3)
        self._free = deque(
            Batch(engine.input_buffer(name, shape)) for _ in range(engine.in_flight + ahead)
        )
        token.on_cancel(self._wake)

    def acquire(self) -> Slot | None:
        """The next slot; waits for a free buffer. None when all tiles are handed out.

        Raises the token's cause when cancelled.
        """
        with self._changed:
            while True:
                self._token.raise_if_cancelled()
                if self._total is not None and self._next >= self._total:
                    return None
                if self._filling is not None or self._free:
                    break
                self._changed.wait(_INTERRUPTIBLE_S)
            batch = self._filling
            if batch is None:
                batch = self._free.popleft()
                batch.first, batch.count, batch.uncommitted = self._next, 0, 0
                self._filling = batch
            slot = Slot(self._next, batch.rgb[batch.count], batch)
            self._next += 1
            batch.count += 1
            batch.uncommitted += 1
            if batch.count == self._capacity or self._next == self._total:
                self._filling = None
            return slot

    def commit(self, slot: Slot) -> None:
        """The slot's pixels are written; its batch goes to the encoder once all its slots are."""
        with self._changed:
            slot.batch.uncommitted -= 1
            self._ready_if_whole(slot.batch)

    def finish(self) -> None:
        """No more tiles: what is handed out is all. The last, partial batch is sent on."""
        with self._changed:
            if self._total is None:
                self._total = self._next
                batch, self._filling = self._filling, None
                if batch is not None:
                    self._ready_if_whole(batch)
            self._changed.notify_all()

    def _ready_if_whole(self, batch: Batch) -> None:
        if batch.uncommitted == 0 and batch is not self._filling:
            self._ready.append(batch)
            self._changed.notify_all()

    def batches(self) -> Iterator[Batch]:
        """Whole batches as they become ready (not always in order), until all tiles have come.

        Raises the token's cause when cancelled.
        """
        while True:
            with self._changed:
                while not self._ready:
                    self._token.raise_if_cancelled()
                    if self._total is not None and self._taken >= self._total:
                        return
                    self._changed.wait(_INTERRUPTIBLE_S)
                batch = self._ready.popleft()
                self._taken += batch.count
            yield batch

    def release(self, batch: Batch) -> None:
        """The engine is done with this batch's memory."""
        with self._changed:
            self._free.append(batch)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
