"""A slide's tiles in, its bag out: readers, encoder and the rows of the bag put together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec, Reduction
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import EngineError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.geometry import Float32Array, Int64Array, TileGrid
from pathgene_rt.options import IO_TIMEOUT_S
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.slides.slide import EncodedSource, Slide
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats, TileStream
from pathgene_rt.streaming.shared_slots import SharedSlots
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


@dataclass(frozen=True)
class Encoding:
    """One encoder's share in a slide: ``service`` fills ``bag`` with the features of the tiles that
    ``order`` names."""

    service: EncoderService
    bag: GrowingBag
    order: TileOrder
    on_batch: OnBatch | None = None
    progress: TileProgress | None = None

    def open(self, tile_px: int, token: CancellationToken, *, encoded: bool) -> TileStream:
        """The stream that the tiles go to."""
        order = self.order

        def sink(first: int, count: int, features: Float32Array) -> None:
            rows = order.rows_of(first, count)
            self.bag.put(rows, features)
            if self.on_batch is not None and not self.on_batch(first, rows, features):
                stream.finish()
            if self.progress is not None:
                self.progress(self.bag.encoded, len(order.rows))

        stream = self.service.open(
            tile_px,
            order.batch,
            token,
            sink,
            total=len(order.rows),
            done=order.done,
            encoded=encoded,
        )
        return stream


def feature_dim(encoder: ModelSpec) -> int:
    """Columns of the encoder's features. Raises EngineError if it declares none."""
    if encoder.feature_dim is None:
        raise EngineError(f"encoder {encoder.name} declares no feature width; export it again")
    return encoder.feature_dim


def bag_of_grid(
    slide_id: str, grid: TileGrid, encoder: ModelSpec, features: Float32Array
) -> FeatureBag:
    """``features`` float32 [N, D] as those of the tiles of ``grid``."""
    return FeatureBag(
        slide_id=slide_id,
        features=features,
        xy=grid.xy,
        tile_px=grid.tile_px,
        mpp=grid.mpp,
        span_px=grid.span_px,
        encoder_sha256=encoder.weights_sha256,
    )


def encode_slide(
    slide: Slide,
    grid: TileGrid,
    encodings: Sequence[Encoding],
    reduction: Reduction,
    *,
    readers: int = 0,
    approximate: bool = False,
    source: EncodedSource | None = None,
    inspection: TileInspection | None = None,
    io_timeout_s: float = IO_TIMEOUT_S,
    token: CancellationToken | None = None,
) -> list[EncodeStats]:
    """Give the tiles of ``grid`` to each of ``encodings``; how each went.

    Every tile is read once. Several encodings have the same rows in their orders, none of them
    done, no ``source``, and batches of which each wants more. Memory beside the bags is a few
    batches of each, whatever the slide's size. ``readers``, ``approximate``, ``source``,
    ``inspection`` and ``io_timeout_s`` are :class:`TileReader`'s. Raises what the slide or an
    engine raises, EngineError for features that are not finite, and CancelledError when ``token``
    is cancelled.
    """
    token = token or CancellationToken()
    with ExitStack() as stack:
        streams = [
            stack.enter_context(one.open(grid.tile_px, token, encoded=source is not None))
            for one in encodings
        ]
        reader = TileReader(
            slide,
            grid,
            reduction,
            streams[0] if len(streams) == 1 else SharedSlots(streams),
            token,
            threads=readers,
            order=encodings[0].order.rows,
            approximate=approximate,
            source=source,
            inspection=inspection,
            io_timeout_s=io_timeout_s,
        )
        stack.enter_context(reader)
        return [stream.wait() for stream in streams]
