"""Where file and scanner meet: producers fill tile slots, the encoder takes whole batches.

A slot is a view into the engine's own input buffer, so a tile is decoded straight into the memory
that the engine reads. Buffers circulate: free -> being filled -> ready -> in the engine -> free.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from pathgene_rt.cancellation import INTERRUPTIBLE_S, CancellationToken
from pathgene_rt.engines.engine import Engine
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedRegion


@dataclass
class Batch:
    """Tiles ``first`` to ``first + count`` of the stream; ``rgb`` uint8 [capacity, p, p, 3], where
    p is ``tile_px``. Of a stream of encoded tiles p is 0, and ``regions`` by number are there.
    """

    rgb: UInt8Array
    tile_px: int
    first: int = 0
    count: int = 0
    uncommitted: int = 0
    regions: dict[int, EncodedRegion] = field(default_factory=dict)

    @property
    def tiles(self) -> UInt8Array:
        """uint8 [count, p, p, 3]: the filled part, which the engine gets."""
        return self.rgb[: self.count]

    @property
    def encoded(self) -> EncodedBatch:
        """The tiles as their regions."""
        numbers = range(self.first, self.first + self.count)
        return EncodedBatch([self.regions[number] for number in numbers], self.tile_px)


@dataclass(frozen=True)
class Slot:
    """Room for tile number ``number`` of the stream: write ``rgb`` uint8 [p, p, 3], then commit."""

    number: int
    rgb: UInt8Array
    batch: Batch = field(repr=False)

    def put(self, region: EncodedRegion) -> None:
        """Of a stream of encoded tiles: in place of pixels."""
        self.batch.regions[self.number] = region


class TileBatcher:
    """Hands out slots in order to any number of producer threads, and full batches to one consumer.

    Memory is bounded: ``in_flight`` batches in the engine, and ``ahead`` being filled or ready.
    ``total`` is the number of tiles if known, else producers call :meth:`finish`. Batches whose
    first tile is in ``done`` are left out. ``on_ready`` is called when a batch becomes ready.
    ``encoded`` tiles are put as regions.
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
        done: Collection[int] = (),
        on_ready: Callable[[], None] | None = None,
        encoded: bool = False,
    ) -> None:
        if total is not None:
            capacity = max(1, min(capacity, total))
        self._capacity = capacity
        self._token = token
        self._total = total
        self._done = frozenset(done)
        self._on_ready = on_ready
        self._changed = threading.Condition()
        self._next = 0
        self._filling: Batch | None = None
        self._ready: deque[Batch] = deque()
        self._unreleased = 0
        name = engine.spec.inputs[0].name
        shape = (capacity, tile_px, tile_px, 3)
        no_pixels = np.empty((capacity, 0, 0, 3), dtype=np.uint8)
        self._free = deque(
            Batch(no_pixels if encoded else engine.input_buffer(name, shape), tile_px)
            for _ in range(engine.in_flight + ahead)
        )
        token.on_cancel(self._wake)

    def acquire(self) -> Slot | None:
        """The next slot; waits for a free buffer. None when all tiles are handed out.

        Raises the token's cause when cancelled.
        """
        with self._changed:
            while not self._all_handed_out():
                slot = self._slot()
                if slot is not None:
                    return slot
                self._changed.wait(INTERRUPTIBLE_S)
            return None

    def try_acquire(self) -> Slot | None:
        """The next slot; None if every buffer is taken or all tiles are handed out. Never waits.

        Raises the token's cause when cancelled.
        """
        with self._changed:
            return None if self._all_handed_out() else self._slot()

    def commit(self, slot: Slot) -> None:
        """The slot's pixels are written; its batch goes to the encoder once all its slots are."""
        with self._changed:
            slot.batch.uncommitted -= 1
            ready = self._ready_if_whole(slot.batch)
        if ready:
            self._notify_ready()

    def finish(self) -> None:
        """No more tiles: what is handed out is all. The last, partial batch is sent on."""
        with self._changed:
            self._total = self._next if self._total is None else min(self._total, self._next)
            batch, self._filling = self._filling, None
            ready = batch is not None and self._ready_if_whole(batch)
            self._changed.notify_all()
        if ready:
            self._notify_ready()

    def take(self) -> Batch | None:
        """A whole batch, not always in order; None if there is none now."""
        with self._changed:
            return self._ready.popleft() if self._ready else None

    def release(self, batch: Batch) -> None:
        """The engine is done with this batch's memory."""
        with self._changed:
            self._unreleased -= 1
            self._free.append(batch)
            self._changed.notify_all()

    def wait_released(self) -> None:
        """Until all tiles were handed out, taken and released. Raises the token's cause."""
        with self._changed:
            while not (self._all_handed_out() and self._unreleased == 0):
                self._changed.wait(INTERRUPTIBLE_S)

    def _all_handed_out(self) -> bool:
        """Whether no slot is left to hand out; moves on past batches that are done."""
        self._token.raise_if_cancelled()
        while self._filling is None and self._next in self._done:
            self._next += self._capacity
        return self._total is not None and self._next >= self._total

    def _slot(self) -> Slot | None:
        if self._filling is None:
            if not self._free:
                return None
            self._filling = self._free.popleft()
            self._filling.first, self._filling.count = self._next, 0
            self._filling.uncommitted = 0
            self._filling.regions.clear()
            self._unreleased += 1
        batch = self._filling
        slot = Slot(self._next, batch.rgb[batch.count], batch)
        self._next += 1
        batch.count += 1
        batch.uncommitted += 1
        if batch.count == self._capacity or self._next == self._total:
            self._filling = None
        return slot

    def _ready_if_whole(self, batch: Batch) -> bool:
        if batch.uncommitted or batch is self._filling:
            return False
        self._ready.append(batch)
        return True

    def _notify_ready(self) -> None:
        # Outside the lock: whoever is told takes the batch at once.
        if self._on_ready is not None:
            self._on_ready()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
