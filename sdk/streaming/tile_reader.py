"""Pull: threads that read and decode the tiles of a slide file into the encoder's slots."""

from __future__ import annotations

import threading
import time
from typing import Protocol, Self

from pathgene_rt.bundle.spec import Reduction
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.errors import CancelledError, SlideReadError
from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.options import IO_TIMEOUT_S
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.slides.read_watch import ReadWatch
from pathgene_rt.slides.slide import EncodedSource, Slide
from pathgene_rt.streaming.batcher import Slot
from pathgene_rt.tiles.grid import read_tiles

# A read that hangs (a network share that went away) must not hold up Ctrl-C: the threads are
# daemons, and after this long they are left behind.
_JOIN_S = 1.0

_WHITE = 255

_TOGETHER_S = 0.1
"""What a call for several tiles may take, so that a slow disk is told from one that stalls."""


class TileSlots(Protocol):
    """Where tiles go: a stream into the encoder. Every method may be called from any thread."""

    def acquire(self) -> Slot | None:
        """The next slot; waits for room. None when all are handed out. Raises when cancelled."""

    def try_acquire(self) -> Slot | None:
        """The next slot if there is room now. Never waits. Raises when cancelled."""

    def commit(self, slot: Slot) -> None:
        """The slot's pixels are written."""


class TileReader:
    """Reads tiles of ``grid`` into the slots of ``slots``, each once.

    The slot of number p gets row ``order[p]`` of the grid (``order`` int64 [N]; None: row p).
    Damaged tiles become white. ``inspection`` looks at every tile, also at those; from a ``source``
    there are no pixels to look at. Any other failure, what the inspection raises, and reading that
    stalls for ``io_timeout_s`` cancel the token and end all threads.

    A thread whose read hangs is left behind. It keeps ``slide`` and one slot until the read
    returns, if it ever does, and may then still write to that slot: slots of a cancelled stream
    must not be used for anything else. It does not keep the process alive, unless the system
    itself cannot end the read (an NFS share mounted "hard").
    """

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        reduction: Reduction,
        slots: TileSlots,
        token: CancellationToken,
        *,
        threads: int = 0,
        order: Int64Array | None = None,
        approximate: bool = False,
        source: EncodedSource | None = None,
        inspection: TileInspection | None = None,
        io_timeout_s: float = IO_TIMEOUT_S,
    ) -> None:
        """``approximate`` allows reduced-size decoding (:meth:`Slide.read`). From ``source``, that
        of the grid's level, tiles are read undecoded; then a damaged one is a failure, too.
        """
        self._slide = slide
        self._grid = grid
        self._reduction = reduction
        self._slots = slots
        self._token = token
        self._order = order
        self._approximate = approximate
        self._source = source
        self._inspection = inspection or TileInspection(
            CheckedSlide(slide.info.slide_id, grid.mpp, len(grid))
        )
        self._watch = ReadWatch(io_timeout_s)
        self._watchdog = threading.Thread(target=self._guard, name="tile-watch", daemon=True)
        self._threads = [
            threading.Thread(target=self._run, name=f"tile-reader-{number}", daemon=True)
            for number in range(threads or default_readers())
        ]
        self._lock = threading.Lock()
        self._running = len(self._threads)

    def __enter__(self) -> Self:
        self._token.on_cancel(self._watch.finish)
        for thread in (*self._threads, self._watchdog):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self._token.cancel()
        self._watchdog.join()  # it ends when all threads have, and when the token is cancelled
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        count = 1
        try:
            while slots := self._acquired(count):
                seconds = self._read(slots) / len(slots)
                best = self._slide.reads_together
                count = max(1, min(best, int(_TOGETHER_S / max(seconds, 1e-6))))
        except CancelledError as stopped:
            self._token.cancel(stopped)
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting consumer
            self._token.cancel(error)
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._watch.finish()

    def _acquired(self, count: int) -> list[Slot]:
        """The next slot, which is waited for, and up to ``count`` in all; empty at the end."""
        slot = self._slots.acquire()
        slots = []
        while slot is not None:
            slots.append(slot)
            slot = self._slots.try_acquire() if len(slots) < count else None
        return slots

    def _read(self, slots: list[Slot]) -> float:
        """Read into ``slots`` and commit them; how many seconds the reading took."""
        rows = [
            slot.number if self._order is None else int(self._order[slot.number]) for slot in slots
        ]
        corners = [(int(x), int(y)) for x, y in self._grid.xy[rows]]
        began = time.monotonic()
        with self._watch.reading():
            if self._source is not None:
                for slot, corner in zip(slots, corners, strict=True):
                    slot.put(self._source.region(corner, self._grid.read_px))
                    self._slots.commit(slot)
                return 0.0
            damages = read_tiles(
                self._slide,
                self._grid,
                corners,
                self._reduction,
                [slot.rgb for slot in slots],
                approximate=self._approximate,
            )
        seconds = time.monotonic() - began
        for slot, row, corner, damage in zip(slots, rows, corners, damages, strict=True):
            if damage is not None:
                slot.rgb[:] = _WHITE
            self._inspection.look(CheckedTile(row, corner, slot.rgb, damage))
            self._slots.commit(slot)
        return seconds

    def _guard(self) -> None:
        try:
            self._watch.raise_if_stalled(self._slide.info.slide_id, "no tile could be read")
        except SlideReadError as stalled:
            self._token.cancel(stalled)


def default_readers() -> int:
    """Two, so that one decodes while another waits for the disk; more where there are cores."""
    return max(2, min(8, usable_cpus() // 2))
