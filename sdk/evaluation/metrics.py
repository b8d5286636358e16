"""How well a head separates classes on slides that it was not trained on.

Every figure is computed with a weight a slide: ones for the figure itself, how often the slide's
case was drawn for its bootstrap interval. Of two exclusive classes the figures are those of the
last; of more, and where a slide may have several, they are the mean of each class against the rest.

The areas are scikit-learn's to 1e-15, which tests hold; it takes one draw at a time, 200 times as
long for a bootstrap of 300 slides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.geometry import BoolArray

Metrics = dict[str, float | int | str | list[float]]
Floats = NDArray[np.float64]

FIGURES = ("auroc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity")
"""Each is in :data:`Metrics` with its ``<name>_interval``, [low, high]."""

_INTERVAL = (2.5, 97.5)
_DRAWS = 100
"""Bootstrap draws computed at once: memory is a few arrays [_DRAWS, slides]."""


def evaluate(
    probabilities: Floats,
    truth: BoolArray,
    cases: Sequence[str],
    *,
    activation: Activation,
    threshold: float,
    resamples: int,
    seed: int,
) -> Metrics:
    """All figures of a head, with 95 % percentile intervals over cases drawn with replacement.

    ``probabilities`` float64 and ``truth`` bool are [n, classes]. ``threshold`` makes the call
    between two classes, and of each class with "sigmoid"; of more exclusive ones the likeliest is
    called. Raises ValueError if a class has no slide, or every slide has it.
    """
    if not (truth.any(axis=0) & ~truth.all(axis=0)).all():
        raise ValueError("figures need slides with and without every class")
    called = calls(probabilities, activation, threshold)
    metrics: Metrics = {}
    figures = _figures(truth, probabilities, called, activation, np.ones((1, len(truth))))
    draws = _draw_cases(truth, cases, resamples, np.random.default_rng(seed))
    drawn = [
        _figures(truth, probabilities, called, activation, draws[start : start + _DRAWS])
        for start in range(0, resamples, _DRAWS)
    ]
    for name in FIGURES:
        metrics[name] = float(figures[name][0])
        values = np.concatenate([figure[name] for figure in drawn])
        metrics[f"{name}_interval"] = [float(bound) for bound in np.percentile(values, _INTERVAL)]
    metrics["accuracy"] = float((called == truth).all(axis=1).mean())
    metrics["slides"] = len(truth)
    metrics["cases"] = len(set(cases))
    return metrics


def calls(probabilities: Floats, activation: Activation, threshold: float) -> BoolArray:
    """Which classes are called, bool [n, classes], as the runtime calls them."""
    if activation == "sigmoid":
        return probabilities >= threshold
    classes = probabilities.shape[1]
    chosen = probabilities.argmax(axis=1)
    if classes == 2:
        chosen = (probabilities[:, 1] >= threshold).astype(np.int64)
    one_hot: BoolArray = chosen[:, None] == np.arange(classes)
    return one_hot


def counted_classes(classes: int, activation: Activation) -> slice:
    """The classes that figures are taken of: the last of two exclusive ones, else all."""
    return slice(1, 2) if activation == "softmax" and classes == 2 else slice(classes)


def auroc(truth: BoolArray, scores: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve, one a row of ``weights`` [draws, n]; ties count half.

    ``truth`` bool [n], ``scores`` float64 [n].
    """
    positive, negative = _at_scores(truth, scores, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    area: Floats = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return area


def auprc(truth: BoolArray, scores: Floats, weights: Floats) -> Floats:
    """Average precision: precision at each score, weighed by the recall gained there. Shapes are
    those of :func:`auroc`."""
    positive, negative = _at_scores(truth, -scores, weights)
    above = np.cumsum(positive, axis=1)
    called = above + np.cumsum(negative, axis=1)
    precision = above / np.maximum(called, 1)  # where nothing is called nothing is gained
    area: Floats = (positive * precision).sum(axis=1) / positive.sum(axis=1)
    return area


def _at_scores(truth: BoolArray, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and negatives at each distinct score, ascending: [draws, scores]."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    weights, truth = weights[:, order], truth[order]
    positive: Floats = np.add.reduceat(weights * truth, starts, axis=1)
    negative: Floats = np.add.reduceat(weights * ~truth, starts, axis=1)
    return positive, negative


def _figures(
    truth: BoolArray,
    probabilities: Floats,
    called: BoolArray,
    activation: Activation,
    weights: Floats,
) -> dict[str, Floats]:
    """:data:`FIGURES`, float64 [draws] each, the mean over the classes that count."""
    classes = truth.shape[1]
    by_class: dict[str, list[Floats]] = {name: [] for name in FIGURES}
    for number in range(classes)[counted_classes(classes, activation)]:
        actual, call = truth[:, number], called[:, number]
        hits, false_alarms = weights @ (actual & call), weights @ (~actual & call)
        positives, negatives = weights @ actual, weights @ ~actual
        sensitivity, specificity = hits / positives, 1 - false_alarms / negatives
        by_class["auroc"].append(auroc(actual, probabilities[:, number], weights))
        by_class["auprc"].append(auprc(actual, probabilities[:, number], weights))
        by_class["balanced_accuracy"].append((sensitivity + specificity) / 2)
        by_class["f1"].append(2 * hits / (positives + hits + false_alarms))
        by_class["sensitivity"].append(sensitivity)
        by_class["specificity"].append(specificity)
    means = {name: np.mean(figures, axis=0) for name, figures in by_class.items()}
    if activation == "softmax" and classes > 2:
        means["balanced_accuracy"] = means["sensitivity"]  # as it is defined for exclusive classes
    return means


def _draw_cases(
    truth: BoolArray, cases: Sequence[str], resamples: int, random: np.random.Generator
) -> Floats:
    """How often each slide is in each draw, float64 [resamples, n].

    Cases, not slides, are drawn, because slides of one patient are not independent. Draws in which
    a class is absent, or on every slide, are drawn again.
    """
    _, case_of = np.unique(np.asarray(cases), return_inverse=True)
    count = int(case_of.max()) + 1
    draws = np.empty((resamples, len(truth)))
    done = 0
    while done < resamples:
        times = random.multinomial(count, np.full(count, 1 / count), size=resamples - done)
        weights = times[:, case_of].astype(np.float64)
        usable = ((weights @ truth > 0) & (weights @ ~truth > 0)).all(axis=1)
        kept = weights[usable]
        draws[done : done + len(kept)] = kept
        done += len(kept)
    return draws
