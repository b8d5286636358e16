"""Pull: threads that read and decode the tiles of a slide file into the batcher's slots."""

from __future__ import annotations

import os
import threading
from typing import Self

from pathgene_rt.errors import CancelledError
from pathgene_rt.geometry import TileGrid
from pathgene_rt.model_spec import Reduction
from pathgene_rt.slides.slide import Slide
from pathgene_rt.streaming.batcher import TileBatcher
from pathgene_rt.streaming.cancellation import CancellationToken
from pathgene_rt.tiling import read_tile

# A read that hangs (a network share that went away) must not hold up Ctrl-C: the threads are
# daemons, and after this long they are left behind.
_JOIN_S = 1.0


def default_readers() -> int:
    """Two, so that one decodes while another waits for the disk; more where there are cores."""
    return max(2, min(8, (os.cpu_count() or 2) // 2))


class TileReader:
    """Reads every tile of ``grid`` once. A failure cancels the token and ends all threads."""

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        reduction: Reduction,
        batcher: TileBatcher,
        token: CancellationToken,
        *,
        threads: int = 0,
    ) -> None:
        self._slide = slide
        self._grid = grid
        self._reduction = reduction
        self._batcher = batcher
        self._token = token
        self._threads = [
            threading.Thread(target=self._run, name=f"tile-reader-{number}", daemon=True)
            for number in range(threads or default_readers())
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self._token.cancel()
        for thread in self._threads:
            thread.join(_JOIN_S if self._token.cancelled else None)

    def _run(self) -> None:
        try:
            while (slot := self._batcher.acquire()) is not None:
                x, y = self._grid.xy[slot.number]
                read_tile(self._slide, self._grid, (int(x), int(y)), self._reduction, slot.rgb)
                self._batcher.commit(slot)
        except CancelledError as stopped:
            self._token.cancel(stopped)
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting consumer
            self._token.cancel(error)
