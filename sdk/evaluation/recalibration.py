"""A head's calibration for a site, from few of its cases.

The log-odds that a head gives are stretched and shifted (J. Platt, "Probabilistic outputs for
support vector machines", 1999): another scanner or stain moves them as a whole. With few cases a
free fit follows their noise, so both are held by normal priors around what the head came with, a
shift of none and a stretch of one (a ridge, as G. Heinze and others advise for few events).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import BoolArray

Floats = NDArray[np.float64]

STRETCH_DEVIATION, SHIFT_DEVIATION = 0.5, 3.0
"""Of the priors: of the stretch's logarithm, and of the shift in log-odds. Two deviations of them
are a stretch of 0.37 to 2.7, and a shift that turns 0.5 into 0.998."""

STRETCHES = (0.1, 10.0)
_STEPS = 50
_CLOSE = 1e-10
_FOLDS = 10


@dataclass(frozen=True)
class LogOddsMap:
    """Log-odds times ``stretch`` plus ``shift``."""

    stretch: float
    shift: float

    def probabilities(self, log_odds: Floats) -> Floats:
        """Of ``log_odds`` float64 [n]."""
        values: Floats = np.exp(-np.logaddexp(0.0, -(self.stretch * log_odds + self.shift)))
        return values


def fit_map(log_odds: Floats, truth: BoolArray, prevalence: float | None = None) -> LogOddsMap:
    """The most likely map of ``log_odds`` float64 [n] for ``truth`` bool [n], given the priors.

    Where cases were chosen by their class, ``prevalence`` is the share of positive ones where they
    come from, and the shift is corrected for it (R. Prentice and R. Pyke, Biometrika 66, 1979).

    Fisher scoring with halved steps on the stretch's logarithm and the shift. Raises ValueError
    unless there are cases of both classes.
    """
    if truth.all() or not truth.any():
        raise ValueError("a calibration needs cases of both classes")
    at = np.zeros(2)
    loss = _loss(at, log_odds, truth)
    for _ in range(_STEPS):
        step = _newton_step(at, log_odds, truth)
        size = 1.0
        while size > 1e-6:
            tried = at - size * step
            tried[0] = min(max(tried[0], math.log(STRETCHES[0])), math.log(STRETCHES[1]))
            found = _loss(tried, log_odds, truth)
            if found < loss:
                break
            size /= 2
        else:
            break
        gained, at, loss = loss - found, tried, found
        if gained < _CLOSE:
            break
    shift = float(at[1])
    if prevalence is not None:
        shift += _log_odds(prevalence) - _log_odds(float(truth.mean()))
    return LogOddsMap(math.exp(at[0]), shift)


def left_out(log_odds: Floats, truth: BoolArray, prevalence: float | None = None) -> Floats:
    """The probabilities float64 [n] of each case by a map that was fitted without it, and without a
    tenth of the others where there are many. Cases whose leaving out would leave one class are
    judged by the map of all."""
    count = len(log_odds)
    folds = np.arange(count) % min(count, _FOLDS) if count > 3 * _FOLDS else np.arange(count)
    order = np.argsort(truth, kind="stable")  # classes are dealt evenly
    of_case = np.empty(count, dtype=np.int64)
    of_case[order] = folds
    found = np.empty(count)
    for fold in np.unique(folds):
        out = of_case == fold
        kept = ~out
        one_class = truth[kept].all() or not truth[kept].any()
        used = np.ones_like(kept) if one_class else kept
        fitted = fit_map(log_odds[used], truth[used], prevalence)
        found[out] = fitted.probabilities(log_odds[out])
    return found


def case_weights(truth: BoolArray, prevalence: float | None) -> Floats:
    """Weights float64 [n] by which both classes of ``truth`` have their shares of ``prevalence``;
    ones without it."""
    if prevalence is None:
        return np.ones(len(truth))
    share = float(truth.mean())
    weights: Floats = np.where(truth, prevalence / share, (1 - prevalence) / (1 - share))
    return weights


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def _loss(at: Floats, log_odds: Floats, truth: BoolArray) -> float:
    scores = math.exp(at[0]) * log_odds + at[1]
    likelihood = np.logaddexp(0.0, np.where(truth, -scores, scores)).sum()
    priors = (at[0] / STRETCH_DEVIATION) ** 2 / 2 + (at[1] / SHIFT_DEVIATION) ** 2 / 2
    return float(likelihood + priors)


def _newton_step(at: Floats, log_odds: Floats, truth: BoolArray) -> Floats:
    """By the expected curvature, which is never negative."""
    stretched = math.exp(at[0]) * log_odds
    p = np.exp(-np.logaddexp(0.0, -(stretched + at[1])))
    rows = np.stack([stretched, np.ones_like(stretched)])
    precision = np.array([STRETCH_DEVIATION**-2, SHIFT_DEVIATION**-2])
    slope = rows @ (p - truth) + at * precision
    curvature = (rows * (p * (1 - p))) @ rows.T + np.diag(precision)
    step: Floats = np.linalg.solve(curvature, slope)
    return step
