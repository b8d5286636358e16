"""Tiles whose bytes cannot be decoded: a few are made white and told, many end the slide."""

from __future__ import annotations

import threading

from pathgene_rt.errors import SlideReadError, TileDecodeError

MAX_DAMAGED_SHARE = 0.01
"""Of the slide's tissue tiles; what is left then still stands for the slide."""

_NAMED = 3


class TileFaults:
    """The damaged tiles of one slide of ``total`` tissue tiles. Thread-safe."""

    def __init__(self, slide_id: str, total: int) -> None:
        self._slide_id = slide_id
        self._total = total
        self._lock = threading.Lock()
        self._xy: set[tuple[int, int]] = set()

    @property
    def count(self) -> int:
        """How many different tiles are damaged."""
        return len(self._xy)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for the report, if there is something to tell."""
        if not self._xy:
            return ()
        return (
            f"{self.count} of {self._total} tiles are damaged and were taken as white "
            f"({self._places()}); copy or scan the slide again for a full result",
        )

    def add(self, xy: tuple[int, int], error: TileDecodeError) -> None:
        """The tile at level-0 corner ``xy`` is damaged.

        Raises SlideReadError from ``error`` when that makes more than MAX_DAMAGED_SHARE of all.
        """
        with self._lock:
            self._xy.add(xy)
            if self.count > MAX_DAMAGED_SHARE * self._total:
                raise SlideReadError(
                    f"{self._slide_id}: {self.count} of its {self._total} tissue tiles cannot be "
                    f"decoded, {self._places()}, and at most {MAX_DAMAGED_SHARE:.0%} may be "
                    f"damaged; copy or scan the slide again ({error})"
                ) from error

    def _places(self) -> str:
        """Where the first of them lie, in reading order, in words."""
        first = sorted(self._xy, key=lambda xy: (xy[1], xy[0]))[:_NAMED]
        named = ", ".join(f"x {x} y {y}" for x, y in first)
        return f"at {named}{' and more' if self.count > _NAMED else ''}"
