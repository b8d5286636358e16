"""Every check of tile quality on every tile of one slide, and what they found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray, Float32Array, Int32Array, Int64Array
from pathgene_rt.quality.bubble import BubbleTiles
from pathgene_rt.quality.burnt import BurntTiles
from pathgene_rt.quality.check import (
    CheckedSlide,
    CheckedTile,
    ComparingCheck,
    CountsTiles,
    TileCheck,
)
from pathgene_rt.quality.damaged import DamagedTiles
from pathgene_rt.quality.focus import OutOfFocusTiles
from pathgene_rt.quality.fold import FoldTiles
from pathgene_rt.quality.pen import PenTiles

MakeCheck = Callable[[CheckedSlide], TileCheck | ComparingCheck]

TILE_CHECKS: tuple[MakeCheck, ...] = (
    DamagedTiles,
    OutOfFocusTiles,
    PenTiles,
    BubbleTiles,
    BurntTiles,
    FoldTiles,
)
"""In the order in which each tile is looked at. A new check is one more line."""

_FIRST_ROWS = 1024


class TileInspection:
    """``checks``, by default all, of the tiles of one slide. Thread-safe. Memory: a byte a check
    and tile, four more for each that compares tiles.
    """

    def __init__(self, slide: CheckedSlide, checks: Sequence[MakeCheck] | None = None) -> None:
        self._checks = [make(slide) for make in (TILE_CHECKS if checks is None else checks)]
        self._comparing: list[ComparingCheck] = []
        self._single: list[tuple[int, TileCheck]] = []
        for column, check in enumerate(self._checks):
            if isinstance(check, ComparingCheck):
                self._comparing.append(check)
            else:
                self._single.append((column, check))
        self._lock = threading.Lock()
        rows = slide.tiles if slide.tiles is not None else _FIRST_ROWS
        # One column a check, and whether the tile was looked at. A check that compares tiles has
        # flags here only as far as an earlier run gave them.
        self._found: BoolArray = np.zeros((rows, len(self._checks) + 1), dtype=np.bool_)
        self._measures: Float32Array = np.full(
            (rows, len(self._comparing)), np.nan, dtype=np.float32
        )

    def look(self, tile: CheckedTile) -> None:
        """Ask every check of ``tile``; of a tile that comes twice the last answers count.

        Raises what a check raises: SlideReadError where the slide is not to be gone on with.
        """
        found = [False] * len(self._checks)
        for column, check in self._single:
            found[column] = check.flags(tile)
        # As coarse as in a record, or a run that goes on would compare other numbers.
        measured = [np.float16(comparing.measure(tile)) for comparing in self._comparing]
        with self._lock:
            if tile.row >= len(self._found):
                more = max(len(self._found), tile.row + 1 - len(self._found))
                self._found = np.pad(self._found, ((0, more), (0, 0)))
                self._measures = np.pad(
                    self._measures, ((0, more), (0, 0)), constant_values=np.float32(np.nan)
                )
            self._found[tile.row] = [*found, True]
            self._measures[tile.row] = measured

    @property
    def names(self) -> tuple[str, ...]:
        """Of the checks, in their order."""
        return tuple(check.name for check in self._checks)

    def restore(self, rows: Int64Array, xy: Int32Array, found: TileFlags | None) -> None:
        """What an earlier run found of the tiles ``rows`` int64 [k] with corners ``xy`` int32
        [k, 2]: its :meth:`record` of them, or its flags of a slide that was whole. Tiles that not
        all checks have looked at stay unchecked.
        """
        if found is None or not set(self.names) <= found.flags.keys():
            return
        columns = np.stack([*(found.flags[name] for name in self.names), found.checked], axis=1)
        for check in self._checks:
            if isinstance(check, CountsTiles):
                for x, y in xy[found.flags[check.name]].tolist():
                    check.restore((x, y))
        with self._lock:
            self._found[rows] = columns
            for column, check in enumerate(self._comparing):
                self._measures[rows, column] = found.measures.get(check.name, np.nan)

    def record(self, rows: Int64Array) -> TileFlags:
        """What there is of the tiles ``rows`` int64 [N] as long as others are still to come, for
        :meth:`restore`: without flags of checks that compare tiles, but with their measures."""
        with self._lock:
            # A row past the end was never looked at.
            known = rows < len(self._found)
            at = np.where(known, rows, 0)
            found = self._found[at] & known[:, None]
            measures = self._measures[at]
        measures[~known] = np.nan
        return TileFlags(
            {name: found[:, column] for column, name in enumerate(self.names)},
            found[:, -1],
            {check.name: measures[:, column] for column, check in enumerate(self._comparing)},
        )

    def of_rows(self, rows: Int64Array, *, among: Int64Array | None = None) -> TileFlags:
        """What was found of the tiles ``rows`` int64 [N], in that order. The slide's tiles are
        those of ``among`` int64 [M], by default all that were looked at so far.
        """
        found = self.record(rows)
        flags = dict(found.flags)
        for column, check in enumerate(self._comparing):
            with self._lock:
                slide = self._measures[:, column].copy()
            if among is not None:
                slide = slide[among[among < len(slide)]]
            measures = found.measures[check.name]
            measured = ~np.isnan(measures)
            compared = flags[check.name].copy()
            compared[measured] = check.flags(measures[measured], slide[~np.isnan(slide)])
            flags[check.name] = compared
        return TileFlags(flags, found.checked)

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the report, of every check."""
        return tuple(line for check in self._checks for line in check.warnings)
