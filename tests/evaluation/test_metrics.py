"""Figures of merit against scikit-learn's, their intervals, and what is fitted on validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.evaluation.calibration import TEMPERATURES, fit_calibration, fit_threshold
from pathgene_rt.evaluation.metrics import FIGURES, calls, evaluate

N = 200


def scored(classes: int, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits, with many ties, and a truth that they tell something of."""
    random = np.random.default_rng(3)
    logits = np.round(2 * random.standard_normal((N, classes)), 1)
    noisy = logits + 2 * random.standard_normal(logits.shape)
    if activation == "sigmoid":
        return logits, noisy > 0.5
    return logits, np.eye(classes, dtype=np.bool_)[noisy.argmax(axis=1)]


def figures(
    probabilities: np.ndarray, truth: np.ndarray, activation: str, **changes: object
) -> dict:
    arguments = {"threshold": 0.4, "resamples": 200, "seed": 0, **changes}
    cases = arguments.pop("cases", [str(place) for place in range(len(truth))])
    return evaluate(probabilities, truth, cases, activation=activation, **arguments)


@pytest.mark.parametrize(
    ("classes", "activation"), [(2, "softmax"), (4, "softmax"), (3, "sigmoid")]
)
def test_figures_are_scikit_learns(classes: int, activation: str) -> None:
    logits, truth = scored(classes, activation)
    probabilities = TemperatureScaling(activation).apply(logits)
    called = calls(probabilities, activation, 0.4)
    columns = [1] if classes == 2 else range(classes)

    def mean(figure: object, values: np.ndarray, **options: object) -> float:
        return float(np.mean([figure(truth[:, k], values[:, k], **options) for k in columns]))

    expected = {
        "auroc": mean(reference.roc_auc_score, probabilities),
        "auprc": mean(reference.average_precision_score, probabilities),
        "balanced_accuracy": mean(reference.balanced_accuracy_score, called),
        "f1": mean(reference.f1_score, called),
        "sensitivity": mean(reference.recall_score, called),
        "specificity": mean(reference.recall_score, called, pos_label=0),
        "accuracy": reference.accuracy_score(truth, called),
    }
    if activation == "softmax":
        expected["balanced_accuracy"] = reference.balanced_accuracy_score(
            truth.argmax(axis=1), called.argmax(axis=1)
        )
    found = figures(probabilities, truth, activation)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    for name in FIGURES:
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high


def test_the_interval_is_wider_where_slides_come_from_few_cases() -> None:
    random = np.random.default_rng(1)
    # Twenty cases of ten slides that agree: ten times fewer independent values.
    grouped = np.repeat(np.arange(20), 10)
    scores = np.repeat(0.6 * random.random(20), 10) + 0.25 * (grouped % 2)
    probabilities, truth = (
        np.stack([1 - scores, scores], axis=1),
        np.eye(2, dtype=np.bool_)[grouped % 2],
    )
    many = figures(probabilities, truth, "softmax")
    few = figures(probabilities, truth, "softmax", cases=list(map(str, grouped)))
    assert (few["cases"], many["cases"]) == (20, 200)
    for name in FIGURES:
        widths = [high - low for low, high in (few[f"{name}_interval"], many[f"{name}_interval"])]
        assert widths[0] > 1.5 * widths[1]


def test_same_seed_same_interval() -> None:
    logits, truth = scored(2, "softmax")
    probabilities = TemperatureScaling("softmax").apply(logits)
    assert figures(probabilities, truth, "softmax") == figures(probabilities, truth, "softmax")
    assert figures(probabilities, truth, "softmax") != figures(
        probabilities, truth, "softmax", seed=1
    )


def test_a_class_without_slides_has_no_figures() -> None:
    truth = np.eye(2, dtype=np.bool_)[[1, 1, 1]]
    with pytest.raises(ValueError, match="with and without every class"):
        figures(np.full((3, 2), 0.5), truth, "softmax")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_temperature_undoes_overconfidence(activation: str) -> None:
    random = np.random.default_rng(2)
    logits = random.standard_normal((4000, 3))
    probabilities = TemperatureScaling(activation).apply(logits)
    if activation == "sigmoid":
        truth = random.random(probabilities.shape) < probabilities
    else:
        drawn = (probabilities.cumsum(axis=1) > random.random((len(probabilities), 1))).argmax(
            axis=1
        )
        truth = np.eye(3, dtype=np.bool_)[drawn]
    assert fit_calibration(3 * logits, truth, activation).temperature == pytest.approx(3, rel=0.1)
    assert fit_calibration(0.5 * logits, truth, activation).temperature == pytest.approx(
        0.5, rel=0.1
    )


def test_temperature_stays_within_bounds_where_classes_are_told_apart() -> None:
    truth = np.eye(2, dtype=np.bool_)[[0, 1, 0, 1]]
    for sign, bound in zip((1.0, -1.0), TEMPERATURES, strict=True):
        fitted = fit_calibration(4 * sign * truth, truth, "softmax")
        assert fitted.temperature == pytest.approx(bound)


@pytest.mark.parametrize("criterion", ["youden", "f1"])
@pytest.mark.parametrize(("classes", "activation"), [(2, "softmax"), (3, "sigmoid")])
def test_no_other_threshold_is_better(classes: int, activation: str, criterion: str) -> None:
    logits, truth = scored(classes, activation)
    probabilities = TemperatureScaling(activation).apply(logits)

    def gain(threshold: float) -> float:
        found = figures(probabilities, truth, activation, threshold=threshold, resamples=1)
        if criterion == "f1":
            return found["f1"]
        return found["sensitivity"] + found["specificity"] - 1

    best = gain(fit_threshold(probabilities, truth, activation, criterion))
    assert best >= max(gain(threshold) for threshold in np.linspace(0.005, 0.995, 199)) - 1e-12
    assert best > gain(0.01)


def test_a_threshold_that_does_not_matter_is_near_one_half() -> None:
    truth = np.eye(2, dtype=np.bool_)[[0, 0, 1, 1]]
    scores = np.array([0.1, 0.2, 0.7, 0.9])
    probabilities = np.stack([1 - scores, scores], axis=1)
    assert fit_threshold(probabilities, truth, "softmax", "youden") == pytest.approx(0.45)
