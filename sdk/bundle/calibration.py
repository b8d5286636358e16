"""From logits to probabilities: the one place that knows how a head is calibrated.

Temperature scaling is that of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Activation = Literal["softmax", "sigmoid"]
"""Classes exclude each other, or each is judged alone."""


@dataclass(frozen=True)
class TemperatureScaling:
    """Logits are divided by ``temperature`` (above 0; 1 leaves them), ``offset`` is added to that
    of the last class, then ``activation`` follows.

    Finite logits of any size give finite probabilities (no overflow); NaN and infinity come out as
    NaN or as the limit they stand for, so callers must check their logits.
    """

    activation: Activation
    temperature: float = 1.0
    offset: float = 0.0

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Probabilities float64 [..., classes] of ``logits`` [..., classes].

        "softmax" sums to one over the last axis, "sigmoid" judges each class alone.
        """
        scaled = self._scaled(logits)
        if self.activation == "sigmoid":
            result: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -scaled))
            return result
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        result = powers / powers.sum(axis=-1, keepdims=True)
        return result

    def log_odds(self, logits: ArrayLike) -> NDArray[np.float64]:
        """log(p / (1 - p)) float64 [..., classes] of the probabilities p of ``logits``, also where
        those round to 0 or 1."""
        scaled = self._scaled(logits)
        if self.activation == "sigmoid":
            return scaled
        others = [
            np.logaddexp.reduce(np.delete(scaled, place, axis=-1), axis=-1)
            for place in range(scaled.shape[-1])
        ]
        result: NDArray[np.float64] = scaled - np.stack(others, axis=-1)
        return result

    def _scaled(self, logits: ArrayLike) -> NDArray[np.float64]:
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        if self.offset:
            scaled[..., -1] += self.offset
        return scaled
