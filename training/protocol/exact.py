"""Exact statistics of counts: Clopper-Pearson bounds, and how many errors a bound allows.

C. Clopper, E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26, 1934.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta


def lower_bound(right: int, cases: int, confidence: float) -> float:
    """The one-sided lower bound of a share of which ``right`` of ``cases`` were seen."""
    if right == 0:
        return 0.0
    return float(beta.ppf(1 - confidence, right, cases - right + 1))


def two_sided(right: int, cases: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which ``right`` of ``cases`` were seen."""
    one_side = (1 + confidence) / 2
    return lower_bound(right, cases, one_side), 1 - lower_bound(cases - right, cases, one_side)


def most_errors(cases: int, share: float, confidence: float) -> int | None:
    """How many of ``cases`` may be wrong for the lower bound of the right ones to be at least
    ``share``; None where not even a faultless sample of that size shows it."""
    right = np.arange(cases, 0, -1)
    bounds = beta.ppf(1 - confidence, right, cases - right + 1)
    allowed = int(np.count_nonzero(bounds >= share))  # they fall with each error
    return allowed - 1 if allowed else None


def least_cases(share: float, confidence: float) -> int:
    """The fewest cases of which a faultless sample shows ``share`` with ``confidence``."""
    return math.ceil(math.log(1 - confidence) / math.log(share) - 1e-9)
