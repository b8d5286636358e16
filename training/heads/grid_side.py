"""The square that a sequence of tiles is laid out on, row by row."""

from __future__ import annotations

from typing import cast

import torch

_LARGEST_SIDE = 4096


def grid_side(n: int, parts: int = 1) -> int:
    """The smallest s with (parts * s)^2 >= n: the side of each of parts x parts squares that hold
    n tiles together, of the one square by default; for 1 <= n <= 4096^2.

    It works in graphs, where n is known only when they run. There it counts the squares that are
    too small, since a square root in float32 would have to be corrected.
    """
    squares = (parts * torch.arange(_LARGEST_SIDE // parts + 1)) ** 2
    return cast(int, (squares < n).sum().item())
