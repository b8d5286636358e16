"""Exact bounds, areas under ROC curves, agreement, calibration: against others and by drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from pathgene_rt.evaluation.agreement import agreement, discordance
from pathgene_rt.evaluation.delong import areas
from pathgene_rt.evaluation.exact import binomial_two_sided, lower_bound, most_errors, two_sided
from pathgene_rt.evaluation.reliability import calibration_error, reliability


def test_bounds_are_quantiles_of_beta_distributions() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        cases = int(random.integers(1, 3000))
        right = int(random.integers(1, cases + 1))
        confidence = float(random.choice([0.9, 0.95, 0.975, 0.99]))
        expected = beta.ppf(1 - confidence, right, cases - right + 1)
        assert lower_bound(right, cases, confidence) == pytest.approx(expected, abs=1e-12)
    assert two_sided(0, 10)[0] == 0.0 and two_sided(10, 10)[1] == 1.0
    assert lower_bound(200_000, 200_001, 0.95) == pytest.approx(
        beta.ppf(0.05, 200_000, 2), abs=1e-12
    )


def test_allowed_errors_are_those_of_the_bounds() -> None:
    for cases in range(1, 200, 7):
        for share in (0.5, 0.8, 0.9, 0.95, 0.99):
            right = np.arange(cases, 0, -1)
            allowed = int((beta.ppf(0.05, right, cases - right + 1) >= share).sum())
            assert most_errors(cases, share, 0.95) == (allowed - 1 if allowed else None)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (3, 9), (7, 7), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    mine = [True] * first + [False] * second + [True] * 4
    theirs = [False] * first + [True] * second + [True] * 4
    found = discordance(mine, theirs)
    assert (found.first, found.second) == (first, second)
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert found.p == pytest.approx(expected)
    assert binomial_two_sided(first, first + second) == found.p


def test_kappa_and_its_interval() -> None:
    random = np.random.default_rng(1)
    one = random.choice(["a", "b", "c"], 300, p=[0.5, 0.3, 0.2])
    other = np.where(random.random(300) < 0.7, one, random.choice(["a", "b", "c"], 300))
    found = agreement(one.tolist(), other.tolist())
    assert found.kappa == pytest.approx(cohen_kappa_score(one, other))
    assert found.share == (one == other).mean()
    # The interval's width against that of drawn samples.
    draws = random.integers(0, 300, (400, 300))
    drawn = np.std([cohen_kappa_score(one[rows], other[rows]) for rows in draws[:150]])
    assert found.kappa_interval is not None
    low, high = found.kappa_interval
    assert (high - low) / 2 / 1.96 == pytest.approx(drawn, rel=0.2)
    assert agreement(["a", "a"], ["a", "a"]).kappa is None
    assert agreement(["a", "b"], ["a", "b"]).kappa == 1.0


def test_areas_are_those_of_others_and_their_errors_those_of_drawing() -> None:
    random = np.random.default_rng(2)
    truth = np.arange(120) < 50
    shared = random.normal(truth * 1.0, 1)
    scores = np.round(np.stack([shared + random.normal(0, 0.7, 120), shared]), 1)  # with ties
    found = areas(truth, scores)
    for row, value in zip(scores, found.values, strict=True):
        assert value == pytest.approx(roc_auc_score(truth, row))
    drawn = []
    for _ in range(400):
        rows = np.concatenate([random.integers(0, 50, 50), random.integers(50, 120, 70)])
        drawn.append(areas(truth[rows], scores[:, rows]).values)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(np.std(drawn, axis=0), rel=0.15)
    difference, low, high, p = found.difference()
    assert difference == pytest.approx(found.values[0] - found.values[1])
    apart = np.diff(np.array(drawn), axis=1).std()
    assert (high - low) / 2 / 1.96 == pytest.approx(apart, rel=0.2)
    assert p == pytest.approx(
        math.erfc(abs(difference) / ((high - low) / 3.92) / math.sqrt(2)), rel=1e-3
    )
    low, high = found.interval(0) or (0, 0)
    assert low < found.values[0] < high


def test_areas_of_what_says_nothing() -> None:
    apart = np.array([True, True, False, False])
    found = areas(apart, np.array([[0.9, 0.8, 0.2, 0.1], [0.9, 0.8, 0.2, 0.1]]))
    assert found.values.tolist() == [1.0, 1.0] and found.interval(0) is None
    assert found.difference() == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="both classes"):
        areas(np.ones(3, bool), np.zeros((1, 3)))


def test_stated_shares_that_are_found_have_no_error() -> None:
    random = np.random.default_rng(3)
    stated = random.random(20_000)
    truth = random.random(20_000) < stated
    assert calibration_error(stated, truth) < 0.015
    assert calibration_error(np.clip(stated + 0.2, 0, 1), truth) == pytest.approx(0.18, abs=0.02)
    curve = reliability(stated, truth)
    assert len(curve) == 10 and sum(one.cases for one in curve) == 20_000
    assert all(one.low <= one.found <= one.high for one in curve)
    assert [one.stated for one in curve] == sorted(one.stated for one in curve)
