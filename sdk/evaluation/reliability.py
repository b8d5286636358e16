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


def calibration_error(probabilities: Floats, truth: BoolArray, bins: int = BINS) -> float:
    """The expected calibration error over bins of equal numbers of cases (M. Naeini, G. Cooper, M.
    Hauskrecht, AAAI 2015; A. Nguyen and B. O'Connor, EMNLP 2015, for such bins)."""
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    apart = [
        len(part) * abs(float(probabilities[part].mean() - truth[part].mean())) for part in parts
    ]
    return float(sum(apart) / len(order))


def brier_score(probabilities: Floats, truth: BoolArray) -> float:
    """The mean squared distance of ``probabilities`` [n] from ``truth`` [n]."""
    return float(np.mean((probabilities - truth) ** 2))


def log_loss(probabilities: Floats, truth: BoolArray) -> float:
    """The mean negative log-likelihood of ``truth`` [n]; probabilities within 1e-12 of 0 and 1
    count as those."""
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(truth, np.log(clipped), np.log1p(-clipped))))
