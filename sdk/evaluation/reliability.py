"""Whether probabilities are shares: of cases that are given 0.8, eight of ten have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.evaluation.exact import two_sided
from pathgene_rt.geometry import BoolArray

Floats = NDArray[np.float64]

BINS = 10
"""Of equal numbers of cases: bins of equal width are empty where heads seldom go."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """``cases`` that were given ``stated`` on average, of which the share ``found`` has it, with
    its exact 95 % interval."""

    cases: int
    stated: float
    found: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def reliability(
    probabilities: Floats, truth: BoolArray, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """The calibration curve of ``probabilities`` float64 [n] for ``truth`` bool [n], ascending."""
    order = np.argsort(probabilities, kind="stable")
    found = []
    for chosen in np.array_split(order, min(bins, len(order))):
        right = int(truth[chosen].sum())
        low, high = two_sided(right, len(chosen))
        found.append(
            ReliabilityBin(
                cases=len(chosen),
                stated=float(probabilities[chosen].mean()),
                found=right / len(chosen),
                low=low,
                high=high,
            )
        )
    return tuple(found)


def calibration_error(
    probabilities: Floats, truth: BoolArray, weights: Floats | None = None, bins: int = BINS
) -> float:
    """The expected calibration error over bins of equal numbers of cases (M. Naeini, G. Cooper, M.
    Hauskrecht, AAAI 2015; A. Nguyen and B. O'Connor, EMNLP 2015, for such bins), each case with its
    weight of ``weights`` [n]."""
    weights = np.ones(len(truth)) if weights is None else weights
    order = np.argsort(probabilities, kind="stable")
    apart = weights * (probabilities - truth)
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(apart[part].sum()) for part in parts) / weights.sum())


def brier_score(probabilities: Floats, truth: BoolArray, weights: Floats | None = None) -> float:
    """The mean squared distance of ``probabilities`` [n] from ``truth`` [n]."""
    return float(np.average((probabilities - truth) ** 2, weights=weights))


def log_loss(probabilities: Floats, truth: BoolArray, weights: Floats | None = None) -> float:
    """The mean negative log-likelihood of ``truth`` [n]; probabilities within 1e-12 of 0 and 1
    count as those."""
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    losses = -np.where(truth, np.log(clipped), np.log1p(-clipped))
    return float(np.average(losses, weights=weights))
