"""From logits to probabilities: the one place where temperature and activation are applied.

The temperature is that of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathgene_rt.bundle.spec import Activation


def log_odds(
    logits: ArrayLike, activation: Activation, temperature: float = 1.0
) -> NDArray[np.float64]:
    """log(p / (1 - p)) float64 [..., classes] of the :func:`probabilities` p of ``logits``, also
    where those round to 0 or 1."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if activation == "sigmoid":
        return scaled
    others = [
        np.logaddexp.reduce(np.delete(scaled, place, axis=-1), axis=-1)
        for place in range(scaled.shape[-1])
    ]
    result: NDArray[np.float64] = scaled - np.stack(others, axis=-1)
    return result


def class_probabilities(
    logits: ArrayLike, activation: Activation, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Probabilities float64 [..., classes] of ``logits`` [..., classes].

    Logits are divided by ``temperature``; "softmax" sums to one over the last axis, "sigmoid"
    judges each class alone. Finite logits of any size give finite results (no overflow); NaN and
    infinity come out as NaN or as the limit they stand for, so callers must check their logits.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if activation == "sigmoid":
        result: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -scaled))
        return result
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result = powers / powers.sum(axis=-1, keepdims=True)
    return result
