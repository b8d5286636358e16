"""Areas under ROC curves with their covariance, for areas of the same cases.

E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
operating characteristic curves", Biometrics 44, 1988; the structural components are taken from
ranks as X. Sun and W. Xu do (IEEE Signal Processing Letters 21, 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import BoolArray

Floats = NDArray[np.float64]

_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Areas:
    """``values`` float64 [scores] and their ``covariance`` [scores, scores]."""

    values: Floats
    covariance: Floats

    def interval(self, place: int) -> tuple[float, float] | None:
        """The 95 % interval of one of them, by its logit, which stays between 0 and 1; None where
        its variance is 0: the classes do not overlap, or there is one case of each, and that says
        nothing of others."""
        area, variance = float(self.values[place]), float(self.covariance[place, place])
        if not 0 < area < 1 or variance <= 0:
            return None
        odds = math.log(area / (1 - area))
        half = _Z95 * math.sqrt(variance) / (area * (1 - area))
        low, high = (1 / (1 + math.exp(-each)) for each in (odds - half, odds + half))
        return low, high

    def difference(self) -> tuple[float, float, float, float]:
        """(the first area less the second, ends of its 95 % interval, two-sided p value)."""
        difference = float(self.values[0] - self.values[1])
        spread = self.covariance[0, 0] + self.covariance[1, 1] - 2 * self.covariance[0, 1]
        error = math.sqrt(max(float(spread), 0.0))
        if error < 1e-12:
            return difference, difference, difference, 1.0 if abs(difference) < 1e-12 else 0.0
        p = math.erfc(abs(difference) / error / math.sqrt(2))
        return difference, difference - _Z95 * error, difference + _Z95 * error, p


def areas(truth: BoolArray, scores: Floats) -> Areas:
    """Of each row of ``scores`` float64 [scores, n], for the cases of ``truth`` bool [n].

    Raises ValueError unless there are cases of both classes.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise ValueError("areas need cases of both classes")
    own = np.stack([_ranks(row[truth]) for row in scores])
    others = np.stack([_ranks(row[~truth]) for row in scores])
    together = np.stack([_ranks(row) for row in scores])
    of_positives = (together[:, truth] - own) / negatives
    of_negatives = 1 - (together[:, ~truth] - others) / positives
    covariance = _covariance(of_positives) / positives + _covariance(of_negatives) / negatives
    return Areas(of_positives.mean(axis=1), covariance)


def _covariance(components: Floats) -> Floats:
    """Of rows, float64 [scores, scores]; 0 of a single case."""
    count = components.shape[1]
    if count < 2:
        return np.zeros((len(components),) * 2)
    apart = components - components.mean(axis=1, keepdims=True)
    product: Floats = apart @ apart.T / (count - 1)
    return product


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Floats = (last - (counts - 1) / 2)[place]
    return mean
