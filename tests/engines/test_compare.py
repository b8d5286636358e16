"""The fidelity error against its definition, written as plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathgene_rt.engines.qualify import compare
from pathgene_rt.engines.qualify.compare import fidelity_error, median_distance

VALUES = st.floats(-100, 100, width=32)


def pairs(features: int = 6, tiles: int = 12):
    shapes = st.tuples(st.integers(2, tiles), st.integers(1, features))
    return shapes.flatmap(
        lambda shape: st.tuples(*(arrays(np.float32, shape, elements=VALUES) for _ in range(2)))
    )


def naive(features, reference) -> tuple[float, float]:
    distances = [
        np.linalg.norm(a.astype(np.float64) - b)
        for i, a in enumerate(reference)
        for j, b in enumerate(reference)
        if i != j
    ]
    unit = np.median(distances)
    errors = [
        np.linalg.norm(f.astype(np.float64) - r) / unit
        for f, r in zip(features, reference, strict=True)
    ]
    return float(np.median(errors)), float(max(errors))


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_the_fidelity_error_is_its_definition(pair):
    features, reference = pair
    spread = np.linalg.norm(reference[:, None].astype(np.float64) - reference, axis=2)
    # Distances below float64's rounding of the squared norms are beyond any encoder's features.
    if np.median(spread[~np.eye(len(reference), dtype=bool)]) < 1e-3:
        return
    found = fidelity_error(features, reference)
    assert (found.median, found.maximum) == pytest.approx(naive(features, reference), rel=1e-6)


def test_distances_do_not_depend_on_the_block_size(monkeypatch):
    points = np.random.default_rng(0).standard_normal((37, 5)).astype(np.float32)
    whole = median_distance(points)
    for rows in (1, 2, 36, 37, 38):
        monkeypatch.setattr(compare, "_ROWS", rows)
        assert median_distance(points) == pytest.approx(whole, rel=1e-12)


def test_features_far_from_the_origin_lose_no_accuracy():
    points = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
    assert median_distance(points + 4096) == pytest.approx(median_distance(points), rel=1e-3)


def test_equal_features_have_no_error_and_nan_has_an_infinite_one():
    reference = np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32)
    same = fidelity_error(reference.copy(), reference)
    assert (same.median, same.maximum) == (0, 0)
    broken = reference.copy()
    broken[5, 1] = np.nan
    assert fidelity_error(broken, reference).maximum == np.inf


@pytest.mark.parametrize(
    ("features", "reference", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), "cannot be compared"),
        (np.zeros(3), np.zeros(3), "cannot be compared"),
        (np.zeros((1, 3)), np.zeros((1, 3)), "at least 2"),
        (np.ones((4, 3)), np.ones((4, 3)), "do not differ"),
    ],
)
def test_what_cannot_be_measured_is_refused(features, reference, message):
    with pytest.raises(ValueError, match=message):
        fidelity_error(features, reference)
