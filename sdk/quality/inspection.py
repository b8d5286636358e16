"""Every check of tile quality on every tile of one slide, and what they found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray, Int32Array, Int64Array
from pathgene_rt.quality.bubble import BubbleTiles
from pathgene_rt.quality.burnt import BurntTiles
from pathgene_rt.quality.check import CheckedSlide, CheckedTile, CountsTiles, TileCheck
from pathgene_rt.quality.damaged import DamagedTiles
from pathgene_rt.quality.focus import OutOfFocusTiles
from pathgene_rt.quality.pen import PenTiles

MakeCheck = Callable[[CheckedSlide], TileCheck]

TILE_CHECKS: tuple[MakeCheck, ...] = (
    DamagedTiles,
    OutOfFocusTiles,
    PenTiles,
    BubbleTiles,
    BurntTiles,
)
"""In the order in which each tile is looked at. A new check is one more line."""

_FIRST_ROWS = 1024


class TileInspection:
    """``checks``, by default all, of the tiles of one slide. Thread-safe. Memory: a byte a check
    and tile.
    """

    def __init__(self, slide: CheckedSlide, checks: Sequence[MakeCheck] | None = None) -> None:
        self._checks = [make(slide) for make in (TILE_CHECKS if checks is None else checks)]
        self._lock = threading.Lock()
        rows = slide.tiles if slide.tiles is not None else _FIRST_ROWS
        # One column a check, and whether the tile was looked at.
        self._found: BoolArray = np.zeros((rows, len(self._checks) + 1), dtype=np.bool_)

    def look(self, tile: CheckedTile) -> None:
        """Ask every check of ``tile``; of a tile that comes twice the last answers count.

        Raises what a check raises: SlideReadError where the slide is not to be gone on with.
        """
        found = [*(check.flags(tile) for check in self._checks), True]
        with self._lock:
            if tile.row >= len(self._found):
                more = max(len(self._found), tile.row + 1 - len(self._found))
                self._found = np.pad(self._found, ((0, more), (0, 0)))
            self._found[tile.row] = found

    @property
    def names(self) -> tuple[str, ...]:
        """Of the checks, in their order."""
        return tuple(check.name for check in self._checks)

    def restore(self, rows: Int64Array, xy: Int32Array, found: TileFlags | None) -> None:
        """What an earlier run found of the tiles ``rows`` int64 [k] with corners ``xy`` int32
        [k, 2]. Tiles that not all checks have looked at stay unchecked.
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

    def of_rows(self, rows: Int64Array) -> TileFlags:
        """What was found of the tiles ``rows`` int64 [N], in that order."""
        with self._lock:
            # A row past the end was never looked at.
            known = rows < len(self._found)
            found = self._found[np.where(known, rows, 0)] & known[:, None]
        flags = {name: found[:, column] for column, name in enumerate(self.names)}
        return TileFlags(flags, found[:, -1])

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the report, of every check."""
        return tuple(line for check in self._checks for line in check.warnings)
