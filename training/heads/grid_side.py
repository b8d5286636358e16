"""The square that a sequence of tiles is laid out on, row by row."""

from __future__ import annotations

from math import isqrt
from typing import cast

import torch


def grid_side(n: int, parts: int = 1) -> int:
    """The smallest s with (parts * s)^2 >= n: the side of each of parts x parts squares that hold
    n tiles together, of the one square by default.

    In graphs, where n is known only when they run, it holds for n up to 2^20: the float32 root of
    n - 1/2 is no whole number there, and farther from one than its rounding. (Counting the squares
    that are too small holds for more, but is no size that TensorRT for RTX can bound.)
    """
    if not torch.compiler.is_compiling():
        return -(-(isqrt(n - 1) + 1) // parts)
    tiles = torch.scalar_tensor(n, dtype=torch.float32)
    side = ((tiles - 0.5) / parts**2).sqrt().ceil()
    return cast(int, side.to(torch.int64).item())
