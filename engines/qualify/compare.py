"""How far an engine's outputs are from the reference, in units that mean something (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import Float32Array

RANKED_FROM = 23
"""Tiles of a bag: in a smaller one two neighbours that change places cost a rank correlation more
than 0.001."""

_ROWS = 256
"""Rows of the distance matrix computed at a time: bounds memory to this many times n."""


@dataclass(frozen=True)
class Fidelity:
    """The fidelity error `e` (docs/design.md) over the tiles: its median and maximum."""

    median: float
    maximum: float


def fidelity_error(features: Float32Array, reference: Float32Array) -> Fidelity:
    """`e_i = |f_i - ref_i|_2 / median over i != j of |ref_i - ref_j|_2` over the rows of [n, D].

    NaN features give an infinite error. Raises ValueError if the shapes differ, or if the reference
    has fewer than two tiles or no two tiles differ: then there is no unit to measure in.
    """
    if features.shape != reference.shape or reference.ndim != 2:
        raise ValueError(f"features {features.shape} cannot be compared with {reference.shape}")
    spread = median_distance(reference)
    if not spread > 0:
        raise ValueError("the reference tiles do not differ; the bundle needs other golden tiles")
    difference = features.astype(np.float64) - reference
    errors = np.nan_to_num(np.linalg.norm(difference, axis=1) / spread, nan=np.inf)
    return Fidelity(float(np.median(errors)), float(errors.max()))


def median_distance(points: Float32Array) -> float:
    """Median Euclidean distance between different rows of ``points`` [n, D], n at least 2.

    Distances come from inner products of centred rows in float64, a block of rows at a time.
    """
    n = len(points)
    if n < 2:
        raise ValueError(f"{n} tiles have no distances between them; at least 2 are needed")
    centred = points.astype(np.float64)
    centred -= centred.mean(axis=0)
    squares = np.einsum("ij,ij->i", centred, centred)
    distances = np.empty(n * (n - 1) // 2)
    filled = 0
    for start in range(0, n, _ROWS):
        rows = centred[start : start + _ROWS]
        squared = squares[start : start + _ROWS, None] + squares - 2 * (rows @ centred.T)
        above = np.arange(n) > np.arange(start, start + len(rows))[:, None]
        pairs = squared[above]
        distances[filled : filled + len(pairs)] = np.sqrt(np.maximum(pairs, 0))
        filled += len(pairs)
    return float(np.median(distances))


def rank_correlation(one: Float32Array, other: Float32Array) -> float:
    """Spearman's rho of the columns of two arrays [n, k], the lowest of them; equal values share
    their mean rank. Columns without an order agree if both have none."""
    lowest = 1.0
    for left, right in zip(_ranks(one).T, _ranks(other).T, strict=True):
        spread = left.std() * right.std()
        if spread > 0:
            rho = float(((left - left.mean()) * (right - right.mean())).mean() / spread)
        else:
            rho = float(np.array_equal(left, right))
        lowest = min(lowest, rho)
    return lowest


def _ranks(values: Float32Array) -> NDArray[np.float64]:
    """Ranks float64 [n, k] within the columns of ``values`` [n, k]."""
    ranks = np.empty(values.shape)
    for column, numbers in enumerate(values.T):
        _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        ranks[:, column] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
