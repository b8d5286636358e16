"""Every check of tile quality on every tile of one slide, and what they found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True, eq=False)
class TileFlags:
    """What was found of the tiles of a bag: ``flags`` bool [N] by the checks' names. ``unchecked``
    of the N tiles never had their pixels in memory here, and no flag: a GPU decoded them itself, or
    an earlier run that was not killed had kept their features.
    """

    flags: dict[str, BoolArray]
    unchecked: int

    @property
    def quality(self) -> dict[str, float]:
        """Figures for the report: ``<check>_tiles`` and its ``<check>_tile_share`` 0..1 of the
        tiles that were looked at; the same of ``unusable`` tiles, which any check flags; and
        ``unchecked_tiles``. Each where it is not 0."""
        found = dict(self.flags)
        found["unusable"] = self.unusable
        figures: dict[str, float] = {}
        for name, flagged in found.items():
            count = int(flagged.sum())
            if count:
                figures[f"{name}_tiles"] = count
                figures[f"{name}_tile_share"] = count / (len(flagged) - self.unchecked)
        if self.unchecked:
            figures["unchecked_tiles"] = self.unchecked
        return figures

    @property
    def unusable(self) -> BoolArray:
        """Which tiles any check flags, bool [N]."""
        flagged: BoolArray = np.any(list(self.flags.values()), axis=0)
        return flagged

    @property
    def text(self) -> str:
        """The flags as a word, for :meth:`TileInspection.restore`; "-" if not all tiles were
        checked."""
        if self.unchecked or not self.flags:
            return "-"
        packed = {name: np.packbits(found).tobytes().hex() for name, found in self.flags.items()}
        return ";".join(f"{name}={bits}" for name, bits in packed.items())


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

    def restore(self, rows: Int64Array, xy: Int32Array, text: str) -> None:
        """What an earlier run found of the tiles ``rows`` int64 [k] with corners ``xy`` int32
        [k, 2]: :attr:`TileFlags.text`. Tiles that not all checks have looked at stay unchecked.

        Raises ValueError for another text.
        """
        if text == "-":
            return
        stored = dict(part.split("=") for part in text.split(";"))
        found = np.zeros((len(rows), self._found.shape[1]), dtype=np.bool_)
        for column, check in enumerate(self._checks):
            packed = np.frombuffer(bytes.fromhex(stored.get(check.name, "")), np.uint8)
            flags = np.unpackbits(packed)[: len(rows)].astype(np.bool_)
            if len(flags) < len(rows):
                return
            found[:, column] = flags
            if isinstance(check, CountsTiles):
                for x, y in xy[flags].tolist():
                    check.restore((x, y))
        found[:, -1] = True
        with self._lock:
            self._found[rows] = found

    def of_rows(self, rows: Int64Array) -> TileFlags:
        """What was found of the tiles ``rows`` int64 [N], in that order."""
        with self._lock:
            # A row past the end was never looked at.
            known = rows < len(self._found)
            found = self._found[np.where(known, rows, 0)] & known[:, None]
        names = [check.name for check in self._checks]
        return TileFlags(
            {name: found[:, column] for column, name in enumerate(names)},
            int(np.count_nonzero(~found[:, -1])),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the report, of every check."""
        return tuple(line for check in self._checks for line in check.warnings)
