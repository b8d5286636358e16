"""Tiles whose bytes cannot be decoded: a few are made white and told, many end the slide."""

from __future__ import annotations

import threading

from pathgene_rt.errors import SlideReadError
from pathgene_rt.quality.check import CheckedSlide, CheckedTile

MAX_DAMAGED_SHARE = 0.01
"""Of the slide's tissue tiles; what is left then still stands for the slide."""

_NAMED = 3


class DamagedTiles:
    """A :class:`~pathgene_rt.quality.check.TileCheck`."""

    name = "damaged"

    def __init__(self, slide: CheckedSlide) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self._xy: set[tuple[int, int]] = set()

    def flags(self, tile: CheckedTile) -> bool:
        """Whether ``tile`` could not be decoded.

        Raises SlideReadError when that makes more than MAX_DAMAGED_SHARE of all.
        """
        if tile.error is None:
            return False
        with self._lock:
            self._xy.add(tile.xy)
            total = self._slide.tiles
            if total is not None and len(self._xy) > MAX_DAMAGED_SHARE * total:
                raise SlideReadError(
                    f"{self._slide.slide_id}: {len(self._xy)} of its {total} tissue tiles cannot "
                    f"be decoded, {self._places()}, and at most {MAX_DAMAGED_SHARE:.0%} may be "
                    f"damaged; copy or scan the slide again ({tile.error})"
                ) from tile.error
        return True

    def restore(self, xy: tuple[int, int]) -> None:
        """It counts as those of this run do."""
        with self._lock:
            self._xy.add(xy)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line, if there is something to tell."""
        if not self._xy:
            return ()
        return (
            f"{len(self._xy)} of {self._slide.tiles} tiles are damaged and were taken as white "
            f"({self._places()}); copy or scan the slide again for a full result",
        )

    def _places(self) -> str:
        """Where the first of them lie, in reading order, in words."""
        first = sorted(self._xy, key=lambda xy: (xy[1], xy[0]))[:_NAMED]
        named = ", ".join(f"x {x} y {y}" for x, y in first)
        return f"at {named} and more" if len(self._xy) > _NAMED else f"at {named}"
