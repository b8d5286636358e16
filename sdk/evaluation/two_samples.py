"""Whether two samples are of one kind: exact for counts, by ranks for numbers.

Both hold their error rate whatever is compared, also where the first sample is small, because they
condition on both: nothing is taken for known that was only estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def fisher(first: int, of_first: int, second: int, of_second: int) -> float:
    """The exact two-sided p value (twice the smaller tail) of ``second`` of ``of_second`` against
    ``first`` of ``of_first`` (R. Fisher, "Statistical Methods for Research Workers", 1934)."""
    marked, whole = first + second, of_first + of_second
    least, most = max(0, marked - of_first), min(marked, of_second)
    shares = [
        _log_choose(marked, k) + _log_choose(whole - marked, of_second - k)
        for k in range(least, most + 1)
    ]
    total = _log_choose(whole, of_second)
    chances = [math.exp(share - total) for share in shares]
    below = sum(chances[: second - least + 1])
    above = sum(chances[second - least :])
    return min(1.0, 2 * min(below, above))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p value that ``second`` is neither larger nor smaller than ``first`` (H. Mann
    and D. Whitney, Annals of Mathematical Statistics 18, 1947), by the normal approximation,
    corrected for ties and continuity; 1 where all are equal. From some 20 values a sample on."""
    n, m = len(first), len(second)
    together = np.array([*first, *second], dtype=np.float64)
    _, place, counts = np.unique(together, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    statistic = float(ranks[n:].sum()) - m * (m + 1) / 2
    whole = n + m
    ties = float((counts**3 - counts).sum()) / (whole * (whole - 1))
    variance = n * m / 12 * (whole + 1 - ties)
    if variance <= 0:
        return 1.0
    apart = max(0.0, abs(statistic - n * m / 2) - 0.5)
    return math.erfc(apart / math.sqrt(variance) / math.sqrt(2))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
