"""Calibration and threshold, fitted on validation slides: never on those that test.

Temperature scaling is that of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.calibration import Activation, TemperatureScaling
from pathgene_rt.evaluation.metrics import Floats, counted_classes
from pathgene_rt.geometry import BoolArray

Criterion = Literal["youden", "f1"]
"""What a threshold is chosen for: sensitivity + specificity - 1, or F1."""

TEMPERATURES = (0.25, 8.0)
"""Where a temperature is looked for. Validation slides that are told apart without a fault would
ask for 0, and certainty."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 60
_LEAST = 1e-6


def fit_calibration(logits: Floats, truth: BoolArray, activation: Activation) -> TemperatureScaling:
    """With the temperature in :data:`TEMPERATURES` with the least negative log-likelihood.

    ``logits`` float64 and ``truth`` bool are [n, classes]. The likelihood is convex in the inverse
    of the temperature, so that a golden-section search finds its one minimum.
    """
    low, high = (math.log(bound) for bound in TEMPERATURES)
    for _ in range(_STEPS):
        step = _GOLDEN * (high - low)
        left, right = high - step, low + step
        if _loss(logits, truth, activation, left) <= _loss(logits, truth, activation, right):
            high = right
        else:
            low = left
    return TemperatureScaling(activation, math.exp((low + high) / 2))


def fit_threshold(
    probabilities: Floats, truth: BoolArray, activation: Activation, criterion: Criterion
) -> float:
    """The threshold that maximises ``criterion``, the mean of it over classes with "sigmoid".

    ``probabilities`` float64 and ``truth`` bool are [n, classes]. Looked for half-way between
    neighbouring probabilities, and below all; of equally good ones that nearest to 0.5 is taken.
    More than two exclusive classes have no threshold, and 0.5 is returned.
    """
    classes = truth.shape[1]
    if activation == "softmax" and classes > 2:
        return 0.5
    counted = counted_classes(classes, activation)
    values = np.unique(probabilities[:, counted])
    thresholds = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    thresholds = np.clip(thresholds, _LEAST, 1 - _LEAST)
    gains = [
        _gain(probabilities[:, number], truth[:, number], thresholds, criterion)
        for number in range(classes)[counted]
    ]
    gain = np.mean(gains, axis=0)
    best = thresholds[gain >= gain.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _loss(
    logits: Floats, truth: BoolArray, activation: Activation, log_temperature: float
) -> float:
    scaled = logits / math.exp(log_temperature)
    if activation == "sigmoid":
        return float(np.logaddexp(0, np.where(truth, -scaled, scaled)).mean())
    return float((np.logaddexp.reduce(scaled, axis=1) - scaled[truth]).mean())


def _gain(
    probabilities: Floats, truth: BoolArray, thresholds: NDArray[np.float64], criterion: Criterion
) -> Floats:
    """``criterion`` float64 [thresholds] of one class, with ``probabilities`` and ``truth`` [n]."""
    positive, negative = np.sort(probabilities[truth]), np.sort(probabilities[~truth])
    hits = len(positive) - np.searchsorted(positive, thresholds)
    false_alarms = len(negative) - np.searchsorted(negative, thresholds)
    if criterion == "youden":
        youden: Floats = hits / len(positive) - false_alarms / len(negative)
        return youden
    f1: Floats = 2 * hits / (len(positive) + hits + false_alarms)
    return f1
