"""Attention as people are shown it: one number a tile, by rank.

Raw attention weights sum to one over a slide, so their size depends on how many tiles it has and on
how sharply a head was trained. Pictures and QuPath therefore get percentile ranks, and
:func:`share_of_top` says how much the ranks hide: 0.1 for attention that prefers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import EngineError
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.prediction import Prediction


@dataclass(frozen=True)
class ShownAttention:
    """What is shown of the attention of a prediction's head: weights and percentile ranks, float32
    [N] each. ``branches`` is how many columns the head gave.
    """

    prediction: Prediction
    attention: Float32Array
    ranks: Float32Array
    branches: int


def shown_attention(attention: Float32Array, prediction: Prediction) -> Float32Array:
    """The attention float32 [N] to show of ``attention`` [N, k].

    With one branch a class (k == classes, k > 1) it is the branch of the likeliest class, which is
    also the one called unless a threshold says otherwise; then that of the called class. Branches
    that belong to no class are averaged. Raises EngineError if a value is not finite.
    """
    if attention.ndim != 2 or attention.shape[1] == 0 or not np.isfinite(attention).all():
        raise EngineError(
            f"head {prediction.head} gave attention of shape {attention.shape} that is not "
            "[tiles, branches] of finite numbers; run pathgene-rt verify"
        )
    if attention.shape[1] == len(prediction.classes):
        return attention[:, shown_class(prediction)]
    mean: Float32Array = attention.mean(axis=1, dtype=np.float32)
    return mean


def class_attention(attention: Float32Array, prediction: Prediction) -> dict[str, Float32Array]:
    """Attention float32 [N] by class, of ``attention`` [N, k] that has a branch for each; of others
    none: a single branch is for no class in particular."""
    branches = attention.shape[1]
    if branches == 1 or branches != len(prediction.classes):
        return {}
    return {name: attention[:, place] for place, name in enumerate(prediction.classes)}


def shown_class(prediction: Prediction) -> int:
    """The likeliest of the called classes, or of all if none was called."""
    among = prediction.called or range(len(prediction.classes))
    return max(among, key=lambda place: prediction.probabilities[place])


def percentile_ranks(values: Float32Array) -> Float32Array:
    """Ranks float32 [N] in 0..100: the share of tiles below each, plus half of those equal to it.

    Equal values get equal ranks; constant attention is 50 everywhere.
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(counts) - counts / 2
    ranks: Float32Array = (100 * middle[place] / len(values)).astype(np.float32)
    return ranks


def share_of_top(values: Float32Array, top: float = 0.1) -> float:
    """The share 0..1 of all attention that the ``top`` share of tiles (at least one) holds."""
    count = max(1, round(top * len(values)))
    total = float(values.sum(dtype=np.float64))
    highest = np.partition(values, len(values) - count)[len(values) - count :]
    return float(highest.sum(dtype=np.float64)) / total if total > 0 else count / len(values)
