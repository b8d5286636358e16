"""A slide's tiles in, its bag out: readers, encoder and the rows of the bag put together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec, Reduction
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import EngineError
from pathgene_rt.features.bag import FeatureBag, first_not_finite
from pathgene_rt.geometry import Float32Array, Int64Array, TileGrid
from pathgene_rt.options import IO_TIMEOUT_S
from pathgene_rt.slides.slide import EncodedSource, Slide
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
from pathgene_rt.streaming.tile_faults import TileFaults
from pathgene_rt.streaming.tile_reader import TileReader

TileProgress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all) after each batch."""

OnBatch = Callable[[int, Int64Array, Float32Array], bool]
"""Called with (first position, rows int64 [k], features float32 [k, D]) after each batch, from the
encoder's thread; the features are valid during the call. False: no more tiles are wanted."""


@dataclass(frozen=True)
class TileOrder:
    """In which order a grid's tiles are encoded, and in which batches.

    ``rows`` int64 [N] is a permutation of the grid: position p of the order is tile ``rows[p]``.
    Batches are ``batch`` consecutive positions; those that begin at a position in ``done`` are
    there already and are left out.
    """

    rows: Int64Array
    batch: int
    done: Collection[int] = ()

    def rows_of(self, first: int, count: int) -> Int64Array:
        """The tiles at positions ``first`` to ``first + count``, int64 [count]."""
        return self.rows[first : first + count]

    def rows_done(self) -> Int64Array:
        """The tiles that are there already, int64 [m]."""
        parts = [self.rows_of(first, self.batch) for first in sorted(self.done)]
        return np.concatenate([self.rows[:0], *parts])


def empty_bag(slide_id: str, grid: TileGrid, encoder: ModelSpec) -> FeatureBag:
    """The bag of ``grid``, its features not yet filled. Raises EngineError."""
    if encoder.feature_dim is None:
        raise EngineError(f"encoder {encoder.name} declares no feature width; export it again")
    return FeatureBag(
        slide_id=slide_id,
        features=np.empty((len(grid), encoder.feature_dim), dtype=np.float32),
        xy=grid.xy,
        tile_px=grid.tile_px,
        mpp=grid.mpp,
        span_px=grid.span_px,
        encoder_sha256=encoder.weights_sha256,
    )


class BagInProgress:
    """Rows of ``features`` float32 [N, D] as they come in, from the encoder's thread.

    Raises EngineError for features that are not finite, naming the tile.
    """

    def __init__(
        self,
        features: Float32Array,
        order: TileOrder,
        on_batch: OnBatch | None = None,
        progress: TileProgress | None = None,
    ) -> None:
        self.features = features
        self.tiles_done = len(order.rows_done())
        self.wants_more = True
        self._order = order
        self._on_batch = on_batch
        self._progress = progress

    def add(self, first: int, count: int, features: Float32Array) -> None:
        """A :data:`~pathgene_rt.streaming.encoder_service.Sink`."""
        rows = self._order.rows_of(first, count)
        bad = first_not_finite(features)
        if bad is not None:
            raise EngineError(
                f"the encoder gave NaN or infinity for tile {rows[bad]}; try --precision float32 "
                "and pathgene-rt verify"
            )
        self.features[rows] = features
        self.tiles_done += count
        if self._on_batch is not None and not self._on_batch(first, rows, features):
            self.wants_more = False
        if self._progress is not None:
            self._progress(self.tiles_done, len(self._order.rows))


def encode_slide(
    slide: Slide,
    grid: TileGrid,
    service: EncoderService,
    reduction: Reduction,
    features: Float32Array,
    order: TileOrder,
    *,
    readers: int = 0,
    approximate: bool = False,
    source: EncodedSource | None = None,
    faults: TileFaults | None = None,
    io_timeout_s: float = IO_TIMEOUT_S,
    token: CancellationToken | None = None,
    on_batch: OnBatch | None = None,
    progress: TileProgress | None = None,
) -> EncodeStats:
    """Fill ``features`` float32 [N, D] with those of the tiles of ``grid`` that ``order`` names.

    Memory beside ``features`` is a few batches, whatever the slide's size. ``readers``,
    ``approximate``, ``source``, ``faults`` and ``io_timeout_s`` are those of :class:`TileReader`.
    Raises what the slide or the engine raises, and CancelledError when ``token`` is cancelled.
    """
    token = token or CancellationToken()
    bag = BagInProgress(features, order, on_batch, progress)

    def sink(first: int, count: int, batch: Float32Array) -> None:
        bag.add(first, count, batch)
        if not bag.wants_more:
            stream.finish()

    stream = service.open(
        grid.tile_px,
        order.batch,
        token,
        sink,
        total=len(order.rows),
        done=order.done,
        encoded=source is not None,
    )
    reader = TileReader(
        slide,
        grid,
        reduction,
        stream,
        token,
        threads=readers,
        order=order.rows,
        approximate=approximate,
        source=source,
        faults=faults,
        io_timeout_s=io_timeout_s,
    )
    with stream, reader:
        return stream.wait()
