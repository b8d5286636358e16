"""One encoder engine for any number of slides and scans at once.

An engine wants one thread that submits and takes results
(:class:`~pathgene_rt.engines.engine.Engine`). That thread lives here; streams of tiles, from files
or from scanners, are served in turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

import numpy as np

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.engine import Engine
from pathgene_rt.errors import CancelledError, EngineError
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.own_process import OwnProcess
from pathgene_rt.streaming.batcher import Batch, Slot, TileBatcher

Sink = Callable[[int, int, Float32Array], None]
"""Called in the service's thread with (first, count, features float32 [count, D]) of a batch: tiles
``first`` to ``first + count`` of the stream. Batches come in any order; the features are valid
during the call only. What it raises ends the stream."""


@dataclass(frozen=True)
class EncodeStats:
    """How the encoder spent its time on one stream. ``wall_s`` runs from the first submission to
    the last result; ``busy_s`` is the part of it in which the engine had work, of this stream or of
    another; ``first_batch_s`` passed before.
    """

    tiles: int
    first_batch_s: float
    wall_s: float
    busy_s: float

    @property
    def tiles_per_second(self) -> float:
        return self.tiles / self.wall_s if self.wall_s else 0.0

    @property
    def busy_share(self) -> float:
        return min(1.0, self.busy_s / self.wall_s) if self.wall_s else 0.0


def _drop(first: int, count: int, features: Float32Array) -> None:
    """The sink of a stream that was closed."""


class TileStream:
    """Tiles of one slide or scan on their way through the encoder. Thread-safe.

    Producers fill slots (:class:`TileBatcher`); features come to ``sink``. An error of this stream
    cancels its token and no other's. Made by :meth:`EncoderService.open`.
    """

    def __init__(
        self, service: EncoderService, batcher: TileBatcher, token: CancellationToken, sink: Sink
    ) -> None:
        self._service = service
        self._sink = sink
        self.batcher = batcher
        self.token = token
        self._opened = time.perf_counter()
        self._first: float | None = None
        self._last = self._opened
        self._busy_before = self._busy = 0.0
        self._tiles = 0

    def acquire(self) -> Slot | None:
        """See :meth:`TileBatcher.acquire`."""
        return self.batcher.acquire()

    def try_acquire(self) -> Slot | None:
        """See :meth:`TileBatcher.try_acquire`."""
        return self.batcher.try_acquire()

    def commit(self, slot: Slot) -> None:
        """See :meth:`TileBatcher.commit`."""
        self.batcher.commit(slot)

    def finish(self) -> None:
        """See :meth:`TileBatcher.finish`."""
        self.batcher.finish()

    def wait(self) -> EncodeStats:
        """Until every tile's features were given to the sink. Raises the token's cause."""
        self.batcher.wait_released()
        return self.stats

    @property
    def stats(self) -> EncodeStats:
        """So far."""
        first = self._last if self._first is None else self._first
        return EncodeStats(self._tiles, first - self._opened, self._last - first, self._busy)

    def close(self) -> None:
        """Take no more part; what is in the engine is dropped when it ends. Idempotent."""
        self._service._leave(self)
        self._sink = _drop  # whose owner usually owns this stream too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self.token.cancel()
        self.close()

    def _submitted(self, busy_s: float) -> None:
        if self._first is None:
            self._first = time.perf_counter()
            self._busy_before = busy_s

    def _deliver(self, batch: Batch, features: Float32Array, busy_s: float) -> None:
        """In the service's thread: features to the sink, the buffer back to the producers."""
        try:
            if not self.token.cancelled:
                self._sink(batch.first, batch.count, features)
                self._tiles += batch.count
                self._last = time.perf_counter()
                self._busy = busy_s - self._busy_before
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self.token.cancel(error)
        finally:
            self.batcher.release(batch)


class EncoderService:
    """Feeds ``engine`` from its streams, one batch of each in turn. Close before the engine.

    An error while a batch is computed ends the stream that it came from; the service goes on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changed = threading.Condition()
        self._streams: deque[TileStream] = deque()
        self._closing = False
        self.process = OwnProcess("the encoder")
        engine.tell_ends(self._wake)
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def open(
        self,
        tile_px: int,
        batch: int,
        token: CancellationToken,
        sink: Sink,
        *,
        total: int | None = None,
        ahead: int = 2,
        done: Collection[int] = (),
        encoded: bool = False,
    ) -> TileStream:
        """A new stream of ``total`` tiles, or of as many as come until ``finish``.

        Batches of ``batch`` tiles that begin at a position in ``done`` are left out. ``encoded``
        tiles are decoded by the engine, which must have a ``decoder``. Raises EngineError once the
        service is closed, and in a process that was forked from its own.
        """
        self.process.require()
        batcher = TileBatcher(
            self.engine,
            tile_px,
            batch,
            token,
            total=total,
            ahead=ahead,
            done=done,
            on_ready=self._wake,
            encoded=encoded,
        )
        stream = TileStream(self, batcher, token, sink)
        with self._changed:
            if self._closing:
                raise EngineError("the encoder was closed; open the bundle again")
            self._streams.append(stream)
        return stream

    def encode(
        self, tiles: UInt8Array, batch: int, token: CancellationToken | None = None
    ) -> Float32Array:
        """Features float32 [n, D] of ``tiles`` uint8 [n, p, p, 3], beside what else is encoded.

        Raises EngineError, or the token's cause.
        """
        found: dict[int, Float32Array] = {}

        def keep(first: int, _: int, features: Float32Array) -> None:
            found[first] = np.array(features)

        token = token or CancellationToken()
        with self.open(tiles.shape[1], batch, token, keep, total=len(tiles)) as stream:
            while (slot := stream.acquire()) is not None:
                slot.rgb[:] = tiles[slot.number]
                stream.commit(slot)
            stream.wait()
        return np.concatenate([found[first] for first in sorted(found)])

    def close(self) -> None:
        """End every stream, wait for what is in the engine. Idempotent; in a process that was
        forked from the service's there is nothing to end."""
        if not self.process.is_this:
            return
        with self._changed:
            self._closing = True
            streams = list(self._streams)
            self._changed.notify_all()
        for stream in streams:
            stream.token.cancel(CancelledError("the encoder was closed; nothing was written"))
        self._thread.join()
        self.engine.tell_ends(lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        outstanding: deque[tuple[TileStream, Batch]] = deque()
        while True:
            taken = None
            if len(outstanding) < self.engine.in_flight:
                taken = self._take(waiting_for_result=bool(outstanding))
                if taken is None and not outstanding:
                    return
            if taken is None:
                self._collect(*outstanding.popleft())
            elif self._submit(*taken):
                outstanding.append(taken)

    def _take(self, *, waiting_for_result: bool) -> tuple[TileStream, Batch] | None:
        """The next ready batch; the stream it came from goes last. None when the service closes,
        and where a result comes first."""
        with self._changed:
            while not self._closing:
                for stream in self._streams:
                    batch = None if stream.token.cancelled else stream.batcher.take()
                    if batch is not None:
                        self._streams.remove(stream)
                        self._streams.append(stream)
                        return stream, batch
                if waiting_for_result and self.engine.ended:
                    return None
                self._changed.wait()
            return None

    def _submit(self, stream: TileStream, batch: Batch) -> bool:
        """Whether the engine took the batch."""
        name = self.engine.spec.inputs[0].name
        stream._submitted(self.engine.busy.seconds)
        try:
            if batch.regions:
                self.engine.submit_encoded(batch.encoded)
            else:
                self.engine.submit({name: batch.tiles})
        except Exception as error:  # noqa: BLE001 - ends the stream, raised again by who waits
            stream.token.cancel(error)
            stream.batcher.release(batch)
            return False
        return True

    def _collect(self, stream: TileStream, batch: Batch) -> None:
        try:
            features = self.engine.result()["features"]
        except Exception as error:  # noqa: BLE001 - ends the stream, raised again by who waits
            stream.token.cancel(error)
            stream.batcher.release(batch)
            return
        stream._deliver(batch, features, self.engine.busy.seconds)

    def _leave(self, stream: TileStream) -> None:
        with self._changed:
            if stream in self._streams:
                self._streams.remove(stream)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
