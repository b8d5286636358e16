"""What checks of quality found of the tiles of a bag."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array

_MEASURE = "~"
"""After a check's name: what follows is what it compares."""


@dataclass(frozen=True, eq=False)
class TileFlags:
    """``flags`` bool [N] by the checks' names; ``checked`` bool [N]: which tiles were looked at.
    The others have no flag: a GPU decoded them itself, or an older version kept their features.

    ``measures`` float32 [N] are there only as long as the slide is not whole: of checks that
    compare its tiles, what they compare, with NaN where there is nothing to compare.
    """

    flags: Mapping[str, BoolArray]
    checked: BoolArray
    measures: Mapping[str, Float32Array] = field(default_factory=dict)

    @classmethod
    def none_checked(cls, names: Sequence[str], tiles: int) -> Self:
        """Of ``tiles`` that nobody has looked at yet."""
        nothing: BoolArray = np.zeros(tiles, dtype=np.bool_)
        return cls(dict.fromkeys(names, nothing), nothing)

    @classmethod
    def from_text(cls, text: str, tiles: int) -> Self | None:
        """What :attr:`text` was of so many ``tiles``; None if not all of them were checked.

        Raises ValueError for what is no such text.
        """
        if text == "-":
            return None
        found: dict[str, BoolArray] = {}
        measures: dict[str, Float32Array] = {}
        for part in text.split(";"):
            name, digits = part.split("=")
            stored = bytes.fromhex(digits)
            measured = name.removesuffix(_MEASURE)
            if len(stored) != (2 * tiles if measured != name else -(-tiles // 8)):
                raise ValueError(f"{len(stored)} bytes are no {name!r} of {tiles} tiles")
            if measured != name:
                measures[measured] = np.frombuffer(stored, "<f2").astype(np.float32)
            else:
                bits = np.unpackbits(np.frombuffer(stored, np.uint8))
                found[name] = bits[:tiles].astype(np.bool_)
        return cls(found, np.ones(tiles, dtype=np.bool_), measures)

    def __len__(self) -> int:
        return len(self.checked)

    @property
    def unchecked(self) -> int:
        """How many tiles were never looked at."""
        return int(np.count_nonzero(~self.checked))

    @property
    def quality(self) -> dict[str, float]:
        """Figures for the report: ``<check>_tiles`` and its ``<check>_tile_share`` 0..1 of the
        tiles that were looked at; the same of ``unusable`` tiles, which any check flags; and
        ``unchecked_tiles``. Each where it is not 0."""
        found = {**self.flags, "unusable": self.unusable}
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
        return self.any_of(self.flags)

    def any_of(self, checks: Collection[str]) -> BoolArray:
        """Which tiles one of ``checks`` flags, bool [N]. Raises KeyError for an unknown one."""
        flagged: BoolArray = np.zeros(len(self), dtype=np.bool_)
        for name in checks:
            flagged = flagged | self.flags[name]
        return flagged

    def take(self, rows: Int64Array | BoolArray) -> TileFlags:
        """Of some of the tiles: ``rows`` int64 [k], or bool [N]."""
        return TileFlags(
            {name: flagged[rows] for name, flagged in self.flags.items()},
            self.checked[rows],
            {name: measured[rows] for name, measured in self.measures.items()},
        )

    @property
    def text(self) -> str:
        """The flags and measures (as float16) as a word without blanks, for :meth:`from_text`; "-"
        if not all tiles were checked."""
        if self.unchecked or not self.flags:
            return "-"
        packed = {name: np.packbits(found).tobytes().hex() for name, found in self.flags.items()}
        for name, measured in self.measures.items():
            packed[name + _MEASURE] = measured.astype("<f2").tobytes().hex()
        return ";".join(f"{name}={digits}" for name, digits in packed.items())
