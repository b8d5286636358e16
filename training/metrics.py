"""How well a head separates classes on slides that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Metrics = dict[str, float | int | str | list[float]]

_INTERVAL = (2.5, 97.5)


def auroc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve: of the last of two classes, else the mean of each against the rest.

    ``probabilities`` float64 [n, classes], ``labels`` int64 [n]. Raises ValueError if a class has
    no slide.
    """
    from sklearn.metrics import roc_auc_score

    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        raise ValueError("the area under the ROC curve needs slides of every class")
    if classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in range(classes)]
    return float(np.mean(areas))


def bootstrap_interval(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    cases: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """95 % percentile interval of :func:`auroc` over cases drawn with replacement.

    Cases, not slides, are drawn, because slides of one patient are not independent. Draws in which
    a class is absent are drawn again.
    """
    random = np.random.default_rng(seed)
    slides_of: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        slides_of.setdefault(case, []).append(place)
    groups = [np.array(places) for places in slides_of.values()]
    areas: list[float] = []
    while len(areas) < resamples:
        drawn = random.integers(len(groups), size=len(groups))
        places = np.concatenate([groups[group] for group in drawn])
        if len(np.unique(labels[places])) == probabilities.shape[1]:
            areas.append(auroc(probabilities[places], labels[places]))
    low, high = np.percentile(areas, _INTERVAL)
    return float(low), float(high)


def evaluate(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    cases: Sequence[str],
    *,
    threshold: float,
    resamples: int,
    seed: int,
) -> Metrics:
    """All figures of a head. ``threshold`` makes the call between two classes; of more, the
    likeliest is called."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    if probabilities.shape[1] == 2:
        calls = (probabilities[:, 1] >= threshold).astype(np.int64)
    else:
        calls = probabilities.argmax(axis=1)
    low, high = bootstrap_interval(probabilities, labels, cases, resamples=resamples, seed=seed)
    return {
        "auroc": auroc(probabilities, labels),
        "auroc_interval": [low, high],
        "accuracy": float(accuracy_score(labels, calls)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, calls)),
        "slides": len(labels),
        "cases": len(set(cases)),
    }
