"""The features of one slide's tiles, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import UsageError
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray, Float32Array, Int32Array, Int64Array, grid_coords

LONE_TILE_SPAN_PX = 256
"""The span of a single tile whose file does not state it: with no neighbour it changes nothing."""


@dataclass(frozen=True)
class FeatureBag:
    """The features of one slide's tiles.

    ``features`` float32 [N, D]; ``xy`` int32 [N, 2], level-0 top-left corners; tiles are
    ``tile_px`` pixels of ``mpp`` um, ``span_px`` level-0 pixels wide. Where a file of another tool
    does not say, ``tile_px`` is 0, ``mpp`` NaN and ``encoder_sha256`` None. ``flags`` are what
    checks of quality found of the tiles, None where that is not known. Raises UsageError if the
    arrays do not belong together.
    """

    slide_id: str
    features: Float32Array
    xy: Int32Array
    tile_px: int
    mpp: float
    span_px: float
    encoder_sha256: str | None
    flags: TileFlags | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.xy.shape != (len(self.features), 2):
            raise UsageError(
                f"{self.slide_id}: features of shape {self.features.shape} do not go with corners "
                f"of shape {self.xy.shape}; give [N, D] and [N, 2]"
            )
        if self.flags is not None and len(self.flags) != len(self.features):
            raise UsageError(
                f"{self.slide_id}: flags of {len(self.flags)} tiles do not go with features of "
                f"{len(self.features)}; give those of the same tiles"
            )

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def take(self, rows: Int64Array | BoolArray) -> Self:
        """Some of the tiles: ``rows`` int64 [k], or bool [N]."""
        flags = None if self.flags is None else self.flags.take(rows)
        return replace(self, features=self.features[rows], xy=self.xy[rows], flags=flags)

    def first_not_finite(self) -> int | None:
        """The first tile whose features hold NaN or infinity."""
        return first_not_finite(self.features)

    @property
    def coords(self) -> Int64Array:
        """int64 [N, 2]: (column, row) of each tile in units of tiles."""
        return grid_coords(self.xy, self.span_px)


def first_not_finite(array: NDArray[Any]) -> int | None:
    """The first row of ``array`` [N, columns] with NaN or infinity, None if there is none."""
    # A row's sum is finite only if all of it is, and needs no [N, D] mask; it may also overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(array.sum(axis=1)))
    damaged = suspects[~np.isfinite(array[suspects]).all(axis=1)]
    return int(damaged[0]) if len(damaged) else None


def tile_spacing_px(xy: Int32Array) -> float | None:
    """The most frequent distance to the next tile of the same row or column; None if all are alone.

    Not the smallest distance: CLAM starts a grid at every contour, and such grids do not line up.
    """
    steps = []
    for along, across in ((0, 1), (1, 0)):
        ordered = xy[np.lexsort((xy[:, along], xy[:, across]))].astype(np.int64)
        step = np.diff(ordered, axis=0)
        steps.append(step[(step[:, across] == 0) & (step[:, along] > 0), along])
    distances, counts = np.unique(np.concatenate(steps), return_counts=True)
    return float(distances[counts.argmax()]) if len(distances) else None
