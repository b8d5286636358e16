"""Exact statistics of counts: Clopper-Pearson bounds, and how many errors a bound allows.

C. Clopper, E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26, 1934. Bounds are quantiles of beta distributions, of which the
distribution function is taken from its continued fraction (NIST Digital Library of Mathematical
Functions, 8.17.22).
"""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_CLOSE = 1e-15
_MOST_TERMS = 10_000
_HALVINGS = 60


def lower_bound(right: int, cases: int, confidence: float) -> float:
    """The one-sided lower bound of a share of which ``right`` of ``cases`` were seen."""
    if right == 0:
        return 0.0
    return _beta_quantile(1 - confidence, right, cases - right + 1)


def two_sided(right: int, cases: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which ``right`` of ``cases`` were seen."""
    one_side = (1 + confidence) / 2
    return lower_bound(right, cases, one_side), 1 - lower_bound(cases - right, cases, one_side)


@lru_cache(maxsize=4096)
def most_errors(cases: int, share: float, confidence: float) -> int | None:
    """How many of ``cases`` may be wrong for the lower bound of the right ones to be at least
    ``share``; None where not even a faultless sample of that size shows it."""
    allowed, refused = -1, cases  # bounds fall with each error
    while refused - allowed > 1:
        errors = (allowed + refused) // 2
        right = cases - errors
        if beta_share_below(share, right, errors + 1) <= 1 - confidence + 1e-12:
            allowed = errors
        else:
            refused = errors
    return allowed if allowed >= 0 else None


def least_cases(share: float, confidence: float) -> int:
    """The fewest cases of which a faultless sample shows ``share`` with ``confidence``."""
    return math.ceil(math.log(1 - confidence) / math.log(share) - 1e-9)


def binomial_two_sided(successes: int, trials: int) -> float:
    """The exact two-sided p value of ``successes`` of ``trials`` if both outcomes were equally
    likely; 1 where nothing was tried."""
    if trials == 0:
        return 1.0
    fewer = min(successes, trials - successes)
    tail = sum(math.comb(trials, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << trials))


def beta_share_below(value: float, a: float, b: float) -> float:
    """P(X <= ``value``) of a beta distribution with ``a``, ``b`` > 0."""
    if value <= 0 or value >= 1:
        return float(value >= 1)
    if value > (a + 1) / (a + b + 2):  # where the fraction would converge slowly
        return 1 - beta_share_below(1 - value, b, a)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(value)
        + b * math.log1p(-value)
    )
    return math.exp(log_front) / (a * _continued_fraction(value, a, b))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), evaluated forwards as W. Lentz does (Applied Optics 15,
    1976)."""
    value = above = 1.0
    below = 0.0
    for term in range(1, _MOST_TERMS):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        below = 1 / ((1 + d * below) or _TINY)
        above = (1 + d / above) or _TINY
        value *= above * below
        if abs(above * below - 1) < _CLOSE:
            break
    return value


@lru_cache(maxsize=4096)
def _beta_quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if beta_share_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
