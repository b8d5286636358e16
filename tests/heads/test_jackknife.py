"""Intervals from leaving out groups: against formulas and tables that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.heads.jackknife import (
    CONFIDENCE,
    LEAST_GROUPS,
    probability_interval,
    student_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [  # tables of Student's t
        (2, 0.95, 4.302653),
        (3, 0.95, 3.182446),
        (5, 0.95, 2.570582),
        (5, 0.99, 4.032143),
        (10, 0.95, 2.228139),
        (31, 0.95, 2.039513),
        (31, 0.999, 3.633456),
        (1000, 0.95, 1.962339),
    ],
)
def test_quantiles_of_student(freedom: float, confidence: float, expected: float) -> None:
    assert student_quantile(freedom, confidence) == pytest.approx(expected, rel=2e-4)


def means_without_each(values: np.ndarray) -> np.ndarray:
    return (values.sum(axis=0) - values) / (len(values) - 1)


def test_for_a_mean_of_equal_groups_it_is_the_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).standard_normal((32, 1))
    found = probability_interval(
        values.mean(axis=0), means_without_each(values), np.full(32, 5.0), share=0.2, claims=1
    )
    spread = (values[:, 0] - values.mean()) ** 2
    # The jackknife of a mean is its usual variance; the furthest group counts twice.
    variance = (spread.sum() + spread.max()) / (32 * 31)
    kurtosis = 32 * (spread**2).sum() / spread.sum() ** 2
    freedom = min(31, 64 / (kurtosis - 1) - 1)
    reach = student_quantile(freedom, CONFIDENCE) * math.sqrt(variance * 0.8)
    ends = 1 / (1 + np.exp(-(values.mean() + np.array([-reach, reach]))))
    np.testing.assert_allclose(found, [ends], rtol=1e-9)


def test_unequal_groups_weigh_by_their_tiles() -> None:
    """The same blocks dealt to groups of one and two blocks: about the same interval."""
    blocks = np.random.default_rng(1).standard_normal(4000)
    widths = []
    for sizes in (np.full(32, 125.0), np.array([100.0, 150.0] * 16)):
        groups = np.split(blocks, np.cumsum(sizes).astype(int)[:-1])
        without = np.array([[(blocks.sum() - g.sum()) / (4000 - len(g))] for g in groups])
        ((low, high),) = probability_interval(
            blocks.mean(keepdims=True), without, sizes, share=0, claims=1
        )
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_the_mean_is_covered_as_often_as_is_claimed() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        population = random.gamma(2.0, size=(60, 1))
        taken = random.choice(60, 24, replace=False)
        sample = population[taken]
        ((low, high),) = probability_interval(
            sample.mean(axis=0),
            means_without_each(sample),
            np.ones(24),
            share=24 / 60,
            claims=1,
        )
        full = 1 / (1 + math.exp(-float(population.mean())))
        covered += low <= full <= high
    assert covered >= 0.93 * 400


def test_more_claims_are_wider_and_a_whole_slide_has_no_width() -> None:
    values = np.random.default_rng(3).standard_normal((20, 2))
    one, two, whole = (
        probability_interval(
            values.mean(axis=0), means_without_each(values), np.ones(20), share=share, claims=claims
        )
        for share, claims in ((0.1, 1), (0.1, 2), (1.0, 1))
    )
    for narrow, wide in zip(one, two, strict=True):
        assert wide[0] < narrow[0] < narrow[1] < wide[1]
    for low, high in whole:
        assert low == high


def test_nothing_is_claimed_from_too_few_groups_or_from_one_that_decides_alone() -> None:
    few = np.random.default_rng(4).standard_normal((LEAST_GROUPS - 1, 1))
    alone = np.zeros((32, 1))
    alone[7] = 1.0
    for without in (few, alone):
        assert probability_interval(
            np.array([0.3]), without, np.ones(len(without)), share=0.5, claims=1
        ) == ((0.0, 1.0),)


def test_a_whole_slide_is_certain_even_if_one_group_decides_alone() -> None:
    alone = np.zeros((32, 1))
    alone[7] = 1.0
    ((low, high),) = probability_interval(np.array([0.3]), alone, np.ones(32), share=1.0, claims=1)
    assert low == high == pytest.approx(1 / (1 + math.exp(-0.3)))


def test_a_prediction_that_no_group_moves_is_certain() -> None:
    still = np.full((12, 1), 0.4)
    ((low, high),) = probability_interval(np.array([0.4]), still, np.ones(12), share=0.1, claims=1)
    assert high - low < 1e-12


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_log_odds_are_those_of_the_probabilities(activation: str) -> None:
    logits = np.random.default_rng(5).standard_normal((6, 3)) * 3
    calibration = TemperatureScaling(activation, 1.7)  # type: ignore[arg-type]
    probabilities, found = calibration.apply(logits), calibration.log_odds(logits)
    np.testing.assert_allclose(found, np.log(probabilities) - np.log1p(-probabilities), rtol=1e-9)


def test_log_odds_beyond_what_probabilities_can_tell() -> None:
    np.testing.assert_allclose(
        TemperatureScaling("softmax").log_odds([0.0, 800.0]), [-800.0, 800.0]
    )
