"""Where a stage moves: the rectangles of a slide that a scanner takes, and in which order."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from pathgene_rt.errors import UsageError

StageOrder = Literal["serpentine", "raster", "random"]
Rectangle = tuple[int, int, int, int]
"""x, y, width, height in level-0 pixels."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a simulated stage moves: ``rate`` fields of view a second, ``tile_px`` square, that
    overlap by ``overlap_px``; a share ``repeat`` of them is scanned twice, the second time at the
    end of all. ``seed`` makes the random order and the repetitions.
    """

    rate: float
    order: StageOrder = "serpentine"
    tile_px: int = 512
    overlap_px: int = 8
    repeat: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UsageError(f"rate {self.rate} is out of range; give fields of view a second")
        if not 1 <= self.tile_px <= 1 << 14:
            raise UsageError(f"fields of view of {self.tile_px} px; choose 1 to {1 << 14}")
        if not 0 <= self.overlap_px < self.tile_px:
            raise UsageError(f"an overlap of {self.overlap_px} px; choose less than the tile")
        if not 0 <= self.repeat <= 1:
            raise UsageError(f"repeat {self.repeat} is out of range; choose 0 to 1")

    def places(self, size_px: tuple[int, int]) -> list[Rectangle]:
        """The rectangles that are pushed on a slide of ``size_px`` (w, h), in their order."""
        width, height = size_px
        step = self.tile_px - self.overlap_px
        columns = list(range(0, max(1, width - self.overlap_px), step))
        places = []
        for row, y in enumerate(range(0, max(1, height - self.overlap_px), step)):
            backwards = self.order == "serpentine" and row % 2 == 1
            for x in reversed(columns) if backwards else columns:
                places.append((x, y, min(self.tile_px, width - x), min(self.tile_px, height - y)))
        drawn = random.Random(self.seed)
        if self.order == "random":
            drawn.shuffle(places)
        return places + drawn.sample(places, round(self.repeat * len(places)))
