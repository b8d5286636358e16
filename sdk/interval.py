"""How far the prediction from some of a slide's tiles may be from that of all of them.

The tiles that were taken are blocks of a finite population, the slide. The variance of a log-odds
is that of the delete-a-group jackknife for groups of unequal size (F. Busing, E. Meijer, R. van der
Leeden, "Delete-m jackknife for unequal m", Statistics and Computing 9, 1999), times the share of
tiles not taken (W. Cochran, "Sampling Techniques", 1977, section 2.6).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Interval = tuple[tuple[float, float], ...]
"""(low, high) of each class's probability."""

CONFIDENCE = 0.95
LEAST_GROUPS = 8
"""With fewer groups of tiles nothing is claimed: the interval is all probabilities."""


def probability_interval(
    log_odds: Float64Array,
    without_each: Float64Array,
    sizes: Float64Array,
    share: float,
    freedom: float | None = None,
) -> Interval:
    """Where the probabilities for the whole slide lie with CONFIDENCE.

    ``log_odds`` [classes] are those of the tiles taken, ``without_each`` [g, classes] those without
    each group of tiles, ``sizes`` [g] the tiles in each group; ``share`` is how much of the slide
    was taken, 0 where that is not known. ``freedom`` are the degrees of freedom, by default g - 1.
    """
    if len(sizes) < LEAST_GROUPS:
        return ((0.0, 1.0),) * len(log_odds)
    variance = _variance(log_odds, without_each, sizes)
    quantile = student_quantile(len(sizes) - 1 if freedom is None else freedom)
    reach = quantile * np.sqrt(variance * max(0.0, 1.0 - share))
    low, high = (1 / (1 + np.exp(-end)) for end in (log_odds - reach, log_odds + reach))
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _variance(
    log_odds: Float64Array, without_each: Float64Array, sizes: Float64Array
) -> Float64Array:
    """float64 [classes]: the jackknife's estimate for the log-odds of all groups."""
    inverse = (sizes.sum() / sizes)[:, None]
    pseudo = inverse * log_odds - (inverse - 1) * without_each
    estimate = len(sizes) * log_odds - ((1 - 1 / inverse) * without_each).sum(axis=0)
    variance: Float64Array = ((pseudo - estimate) ** 2 / (inverse - 1)).mean(axis=0)
    return variance


def student_quantile(freedom: float) -> float:
    """|t| of Student's distribution stays below it with probability CONFIDENCE; ``freedom`` >= 2.

    By G. Hill's algorithm 396 (Communications of the ACM 13, 1970), to four digits.
    """
    n, tail = freedom, 1 - CONFIDENCE
    if n == 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tail) ** (2 / n)
    if y <= 0.05 + a:
        inner = (1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y
        return math.sqrt(n * ((inner - 1) * (n + 1) / (n + 2) + 1 / y))
    x = NormalDist().inv_cdf(tail / 2)
    if n < 5:
        c += 0.3 * (n - 4.5) * (x + 0.6)
    c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
    z = x * x
    z = (((((0.4 * z + 6.3) * z + 36) * z + 94.5) / c - z - 3) / b + 1) * x
    return math.sqrt(n * math.expm1(a * z * z))
