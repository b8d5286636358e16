"""How the tiles of a batch are put together from encoded tiles, as words for the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pathgene_rt.geometry import Int32Array
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedRegion

MISSING = -1

_CORNER_WORDS = 2


@dataclass(frozen=True)
class Chunk:
    """Tiles ``first`` to ``first + count`` of a batch, whose encoded tiles are decoded at once.

    ``streams`` are those, each once; ``regions`` int32 [count, words] say for each tile where it
    begins and which of the streams it is cut from, as assemble.cu reads it.
    """

    first: int
    count: int
    streams: list[bytes]
    regions: Int32Array


def chunks(batch: EncodedBatch, most: int) -> Iterator[Chunk]:
    """``batch`` in runs of tiles that touch up to ``most`` encoded tiles, but in runs of one tile
    at least.
    """
    columns, rows = table_size(batch)
    tables: list[Int32Array] = []
    places: dict[int, int] = {}
    streams: list[bytes] = []
    first = 0
    for number, region in enumerate(batch.regions):
        fresh = [tile for tile in region.streams if tile not in places]
        if tables and len(streams) + len(fresh) > most:
            yield Chunk(first, len(tables), streams, np.stack(tables))
            first, tables, places, streams = number, [], {}, []
            fresh = list(region.streams)
        for tile in fresh:
            places[tile] = len(streams)
            streams.append(region.streams[tile])
        tables.append(_words(region, places, columns, rows))
    yield Chunk(first, len(tables), streams, np.stack(tables))


def geometry(batch: EncodedBatch) -> Int32Array:
    """The words of assemble.cu's Geometry, int32.

    Sums are divided as Pillow's Reduce.c does it, which for factors other than powers of two is not
    quite rounding to the nearest.
    """
    level, factor = batch.level, batch.factor
    pixels = factor * factor
    columns, rows = table_size(batch)
    return np.array(
        [
            batch.tile_px,
            factor,
            pixels // 2,
            (1 << 24) // pixels,
            *level.size_px,
            *level.tile_px,
            *level.background,
            columns,
            _CORNER_WORDS + columns * rows,
        ],
        dtype=np.int32,
    )


def table_size(batch: EncodedBatch) -> tuple[int, int]:
    """(columns, rows) of encoded tiles that a region touches at most."""
    side = batch.regions[0].side_px
    columns, rows = ((side + tile - 2) // tile + 1 for tile in batch.level.tile_px)
    return columns, rows


def _words(region: EncodedRegion, places: dict[int, int], columns: int, rows: int) -> Int32Array:
    level = region.level
    words = np.full(_CORNER_WORDS + columns * rows, MISSING, dtype=np.int32)
    words[:_CORNER_WORDS] = region.corner_px
    first_column, first_row = (
        max(0, corner) // tile for corner, tile in zip(region.corner_px, level.tile_px, strict=True)
    )
    for number in region.streams:
        row, column = divmod(number, level.across)
        at = (row - first_row) * columns + column - first_column
        words[_CORNER_WORDS + at] = places[number]
    return words
