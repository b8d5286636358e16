"""The contract of a check of tile quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pathgene_rt.errors import TileDecodeError
from pathgene_rt.geometry import BoolArray, Float32Array, UInt8Array
from pathgene_rt.quality.squares import Squares


@dataclass(frozen=True)
class CheckedSlide:
    """The slide whose tiles are checked. ``mpp`` is the scale of the tiles as encoded; ``tiles``
    how many there are to be, None as long as they are still pushed.
    """

    slide_id: str
    mpp: float
    tiles: int | None


@dataclass(frozen=True, eq=False)
class CheckedTile:
    """A tile as the encoder gets it: ``rgb`` uint8 [tile_px, tile_px, 3], valid during the call.

    ``row`` is its place among the slide's tiles, ``xy`` its level-0 corner. ``error`` says why it
    has no pixels; ``rgb`` is white then.
    """

    row: int
    xy: tuple[int, int]
    rgb: UInt8Array
    error: TileDecodeError | None = None
    _squares: dict[float, Squares] = field(default_factory=dict, init=False, repr=False)

    def squares(self, mpp: float) -> Squares:
        """The tile, at ``mpp`` um/px, as squares: the same for all checks, computed once."""
        if mpp not in self._squares:
            self._squares[mpp] = Squares(self.rgb, mpp)
        return self._squares[mpp]


class _Check(Protocol):
    """One question about the tiles of one slide. Thread-safe.

    It runs in the threads that read tiles, on pixels that are in memory already, before each tile
    goes to the encoder: it must take a small part of the time that decoding takes.
    """

    @property
    def name(self) -> str:
        """Of what is found, one word: the report counts its tiles as ``<name>_tiles``, and their
        share of those that were looked at as ``<name>_tile_share``."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the report, of the tiles so far; empty if there is nothing to tell."""


class TileCheck(_Check, Protocol):
    """A question that each tile answers by itself."""

    def flags(self, tile: CheckedTile) -> bool:
        """Whether ``tile`` has what this check looks for.

        What it raises ends the slide. A tile may come twice (its row tells).
        """


@runtime_checkable
class ComparingCheck(_Check, Protocol):
    """A question that a tile answers only beside the others of its slide."""

    def measure(self, tile: CheckedTile) -> float:
        """What is to be compared of ``tile``, kept as float16; NaN if nothing can be said of it.

        What it raises ends the slide. A tile may come twice (its row tells).
        """

    def flags(self, measures: Float32Array, slide: Float32Array) -> BoolArray:
        """Which of ``measures`` float32 [n] are of what this check looks for, bool [n], where the
        tiles of the slide have the measures ``slide`` float32 [N]. None is NaN."""


@runtime_checkable
class CountsTiles(Protocol):
    """A check that tells single tiles, or ends a slide for how many there are."""

    def restore(self, xy: tuple[int, int]) -> None:
        """The tile at the level-0 corner ``xy`` had this flag in a run that was killed, and whose
        features are taken over: its pixels do not come again.
        """
