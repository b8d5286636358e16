"""An engine that computes the tiny encoder in numpy, with delays and failures on request."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from pathgene_rt.engines.engine import Array, BusyClock, EngineInfo
from pathgene_rt.errors import EngineError
from tests.support import tiny_models as tiny


class NumpyEngine:
    """Runs one submission at a time on its own thread, like an accelerator would."""

    in_flight = 2
    decoder = None
    device = "numpy"
    warnings: tuple[str, ...] = ()
    info = EngineInfo("numpy", np.__version__, "numpy", "float32", 1)

    def __init__(
        self,
        tile_px: int = tiny.TILE_PX,
        *,
        seconds_a_tile: float = 0.0,
        fail_at: int | None = None,
    ) -> None:
        self.spec = tiny.encoder_spec(tiny.tiny_encoder_onnx(tile_px), tile_px)
        self.busy = BusyClock()
        self.batches: list[int] = []
        self.most_outstanding = 0
        self._weights = tiny.encoder_weights(tile_px)
        self._seconds_a_tile = seconds_a_tile
        self._fail_at = fail_at
        self._worker = ThreadPoolExecutor(1)
        self._outstanding: deque[Future[Array]] = deque()
        self._lock = threading.Lock()
        self._tell: Callable[[], None] = lambda: None

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, np.uint8)

    def holding(self, array: Array) -> AbstractContextManager[None]:
        return nullcontext()

    def submit(self, inputs: Mapping[str, Array]) -> None:
        tiles = inputs["tiles"]
        if len(self._outstanding) == self.in_flight:
            raise EngineError("too many in flight")
        self.batches.append(len(tiles))
        number = len(self.batches)
        self.busy.start()
        self._outstanding.append(self._worker.submit(self._run, tiles, number))
        self._outstanding[-1].add_done_callback(lambda _: self._tell())
        self.most_outstanding = max(self.most_outstanding, len(self._outstanding))

    def _run(self, tiles: Array, number: int) -> Array:
        try:
            time.sleep(self._seconds_a_tile * len(tiles))
            if self._fail_at == number:
                raise EngineError("the device was lost")
            return tiny.encode(tiles, self._weights)
        finally:
            self.busy.stop()

    def tell_ends(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    @property
    def ended(self) -> bool:
        return not self._outstanding or self._outstanding[0].done()

    def result(self) -> Mapping[str, Array]:
        if not self._outstanding:
            raise EngineError("nothing in flight")
        return {"features": self._outstanding.popleft().result()}

    def close(self) -> None:
        self._worker.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
