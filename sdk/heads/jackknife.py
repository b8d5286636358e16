"""How far the prediction from some of a slide's tiles may be from that of all of them.

The tiles that were taken are blocks of a finite population, the slide. The variance of a log-odds
is that of the delete-a-group jackknife for groups of unequal size (F. Busing, E. Meijer, R. van der
Leeden, "Delete-m jackknife for unequal m", Statistics and Computing 9, 1999), times the share of
tiles not taken (W. Cochran, "Sampling Techniques", 1977, section 2.6).

Attention makes predictions depend on few tiles, and of those some may not have been seen. So the
group that matters most is counted twice, and the degrees of freedom are what the groups' unequal
weight leaves of them (F. Satterthwaite, Biometrics Bulletin 2, 1946). ``benchmarks/interim.py``
measures how often such intervals hold.
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
"""With which all intervals of a head hold together."""

LEAST_GROUPS = 8
"""With fewer groups of tiles nothing is claimed: the interval is all probabilities."""

_ONE_ALONE = 0.8
"""Nothing is claimed either where more than this share of the variance comes from one group: the
prediction rests on the top tile or so, and one higher may lie among those not seen."""

_LEAST_FREEDOM = 2


def probability_interval(
    log_odds: Float64Array,
    without_each: Float64Array,
    sizes: Float64Array,
    *,
    share: float,
    claims: int,
) -> Interval:
    """Where the probabilities for the whole slide lie, of each class.

    ``log_odds`` float64 [classes] are those of the tiles taken, ``without_each`` [g, classes] those
    without each group of tiles, ``sizes`` [g] the tiles in each group, at least 1; ``share`` 0..1
    is how much of the slide was taken, 0 where that is not known. ``claims`` intervals are to hold
    together (C. Bonferroni, 1936).
    """
    groups = len(sizes)
    if groups < LEAST_GROUPS:
        return ((0.0, 1.0),) * len(log_odds)
    inverse = (sizes.sum() / sizes)[:, None]
    estimate = groups * log_odds - ((1 - 1 / inverse) * without_each).sum(axis=0)
    pseudo = inverse * log_odds - (inverse - 1) * without_each
    spread = (pseudo - estimate) ** 2 / (inverse - 1)
    confidence = 1 - (1 - CONFIDENCE) / claims
    unseen = math.sqrt(1 - share)
    reach = [_reach(column, confidence) * unseen if unseen else 0.0 for column in spread.T]
    return tuple(
        (_probability(centre - half), _probability(centre + half))
        for centre, half in zip(log_odds.tolist(), reach, strict=True)
    )


def _reach(spread: Float64Array, confidence: float) -> float:
    """Half the interval of a log-odds; ``spread`` [g] is what each group adds to its variance."""
    groups, total, highest = len(spread), float(spread.sum()), float(spread.max())
    if total == 0:
        return 0.0
    if highest > _ONE_ALONE * total:
        return math.inf
    kurtosis = groups * float((spread**2).sum()) / total**2
    freedom = groups - 1.0
    if kurtosis > 1:
        freedom = min(freedom, max(_LEAST_FREEDOM, 2 * groups / (kurtosis - 1) - 1))
    return student_quantile(freedom, confidence) * math.sqrt((total + highest) / groups)


def _probability(log_odds: float) -> float:
    return math.exp(-float(np.logaddexp(0.0, -log_odds)))


def student_quantile(freedom: float, confidence: float) -> float:
    """|t| of Student's distribution stays below it with probability ``confidence``; ``freedom`` is
    at least 2. By G. Hill's algorithm 396 (Communications of the ACM 13, 1970), to four digits.
    """
    n, tail = freedom, 1 - confidence
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
