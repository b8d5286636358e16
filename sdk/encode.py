"""Tiles in, bag out: the loop that keeps the encoder engine fed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pathgene_rt.engine import Engine
from pathgene_rt.errors import EngineError
from pathgene_rt.features import first_not_finite
from pathgene_rt.geometry import Float32Array, TileGrid
from pathgene_rt.model_spec import Reduction
from pathgene_rt.slides.slide import Slide
from pathgene_rt.streaming.batcher import Batch, TileBatcher
from pathgene_rt.streaming.cancellation import CancellationToken
from pathgene_rt.streaming.tile_reader import TileReader

TileProgress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all) after each batch."""


@dataclass(frozen=True)
class EncodeStats:
    """How the encoder spent its time. ``wall_s`` runs from the first submission to the last result;
    ``busy_s`` is the part of it in which the engine had work; ``first_batch_s`` passed before.
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


def encode_slide(
    slide: Slide,
    grid: TileGrid,
    engine: Engine,
    reduction: Reduction,
    *,
    batch: int,
    readers: int = 0,
    token: CancellationToken | None = None,
    progress: TileProgress | None = None,
) -> tuple[Float32Array, EncodeStats]:
    """Features float32 [N, D] of every tile of ``grid``, in grid order.

    Memory is the bag plus a few batches, whatever the slide's size. Raises what the slide or the
    engine raises, and CancelledError when ``token`` is cancelled.
    """
    token = token or CancellationToken()
    batcher = TileBatcher(engine, grid.tile_px, batch, token, total=len(grid))
    with TileReader(slide, grid, reduction, batcher, token, threads=readers):
        return encode_batches(engine, batcher, len(grid), progress)


def encode_batches(
    engine: Engine, batcher: TileBatcher, total: int, progress: TileProgress | None = None
) -> tuple[Float32Array, EncodeStats]:
    """Features float32 [total, D] of all batches; ``engine.in_flight`` of them are under way."""
    width = engine.spec.feature_dim
    if width is None:
        raise EngineError(f"encoder {engine.spec.name} declares no feature width; export it again")
    bag = np.empty((total, width), dtype=np.float32)
    name = engine.spec.inputs[0].name
    outstanding: deque[Batch] = deque()
    done = 0
    began = time.perf_counter()
    first = last = began
    busy_before = engine.busy.seconds

    def collect() -> None:
        nonlocal done, last
        features = engine.result()["features"]
        finished = outstanding.popleft()
        bag[finished.first : finished.first + finished.count] = features
        batcher.release(finished)
        done += finished.count
        last = time.perf_counter()
        if progress is not None:
            progress(done, total)

    try:
        for ready in batcher.batches():
            if done == 0 and not outstanding:
                first = time.perf_counter()
            if len(outstanding) == engine.in_flight:
                collect()
            outstanding.append(ready)
            engine.submit({name: ready.tiles})
        while outstanding:
            collect()
    except BaseException:
        # The engine still owns these buffers; a later slide must not meet their results.
        drain(engine, len(outstanding))
        raise
    tile = first_not_finite(bag)
    if tile is not None:
        raise EngineError(
            f"the encoder gave NaN or infinity for tile {tile}; try --precision float32 and "
            "pathgene-rt verify"
        )
    stats = EncodeStats(total, first - began, last - first, engine.busy.seconds - busy_before)
    return bag, stats


def drain(engine: Engine, outstanding: int) -> None:
    """Take and drop what is still in flight, so that the engine can serve the next slide."""
    for _ in range(outstanding):
        try:
            engine.result()
        except EngineError:
            # The failure that ends this slide is being raised already; this one adds nothing.
            return
