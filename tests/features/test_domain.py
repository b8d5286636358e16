"""Whether features are like those of training: false alarms as stated, shifts found, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export.domain import load_domain
from pathgene_rt.features.describe_domain import (
    describe_domain,
    shrunk_covariance,
    write_domain,
)
from pathgene_rt.features.domain import DomainDescription
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from tests.support.tiny_models import encoder_spec
from tests.support.training_cohort import make_bag

WIDTH = 24


class Bags(BagStore):
    """Bags in memory, by the number that is their file's stem."""

    def __init__(self, features: list[np.ndarray]) -> None:
        super().__init__(0)
        self._made = [make_bag(f"s{n}", each) for n, each in enumerate(features)]

    def read(self, path: Path):
        return self._made[int(path.stem)]


def drawn(random: np.random.Generator, slides: int) -> list[np.ndarray]:
    """Slides of one kind: correlated features, a mean of each slide's own."""
    mixing = np.random.default_rng(1).standard_normal((WIDTH, WIDTH)) * np.linspace(3, 0.2, WIDTH)
    return [
        (
            (random.standard_normal((80, WIDTH)) + 0.4 * random.standard_normal(WIDTH)) @ mixing.T
        ).astype(np.float32)
        for _ in range(slides)
    ]


def labelled(count: int, per_case: int = 1) -> list[LabelledSlide]:
    return [
        LabelledSlide(f"s{n}", f"c{n // per_case:03d}", n % 2, Path(f"{n}.h5"))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def description() -> DomainDescription:
    return describe_domain(labelled(120), Bags(drawn(np.random.default_rng(0), 120)))


def outside(description: DomainDescription, slides: list[np.ndarray], alarm: float = 0.05) -> float:
    verdicts = [description.judge(make_bag("x", each), alarm) for each in slides]
    return float(np.mean([verdict.outside for verdict in verdicts]))


@pytest.mark.parametrize("alarm", [0.05, 0.2])
def test_about_the_stated_share_of_the_same_kind_is_outside(
    description: DomainDescription, alarm: float
) -> None:
    new = drawn(np.random.default_rng(5), 1500)
    assert outside(description, new, alarm) == pytest.approx(alarm, abs=0.04)


def test_shifts_are_found_whichever_part_they_move(description: DomainDescription) -> None:
    new = drawn(np.random.default_rng(6), 60)
    assert outside(description, [each + 4 for each in new]) == 1
    assert outside(description, [0.5 * each for each in new]) == 1, "too alike, as blur leaves them"
    assert outside(description, [1.6 * each for each in new]) == 1
    noise = np.random.default_rng(7)
    noisy = [each + noise.normal(0, 3, each.shape).astype(np.float32) for each in new]
    assert outside(description, noisy) == 1


def test_a_verdict_in_json(description: DomainDescription) -> None:
    (bag,) = drawn(np.random.default_rng(8), 1)
    verdict = description.judge(make_bag("x", bag), 0.05)
    assert verdict.to_dict() == {
        "score": verdict.score,
        "percentile": verdict.percentile,
        "verdict": "inside",
        "cases": 120,
        "reference": "training",
    }
    far = description.judge(make_bag("x", bag + 100), 0.05)
    assert far.to_dict()["verdict"] == "outside"
    assert far.percentile == pytest.approx(100 * 120 / 121) and far.score > verdict.score
    one_tile = description.judge(make_bag("x", bag[:1]), 0.05)
    assert np.isfinite(one_tile.score)


def test_slides_of_a_case_are_one_example() -> None:
    found = describe_domain(labelled(60, per_case=3), Bags(drawn(np.random.default_rng(0), 60)))
    assert len(found.scores) == 20


def test_too_few_cases_and_features_that_are_no_numbers_are_refused() -> None:
    features = drawn(np.random.default_rng(0), 30)
    with pytest.raises(UsageError, match="needs at least 20 cases, there are 10"):
        describe_domain(labelled(30, per_case=3), Bags(features))
    features[3][2, 1] = np.nan
    with pytest.raises(UsageError, match=r"3\.h5 holds no tiles, NaN or infinity"):
        describe_domain(labelled(30), Bags(features))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("axes", lambda array: array[:, :-1]),
        ("axes", lambda array: array[0]),
        ("mean", lambda array: array.astype(np.float64)),
        ("mean", lambda array: np.full_like(array, np.nan)),
        ("variances", lambda array: -array),
        ("scales", np.zeros_like),
        ("scores", lambda array: array[::-1].copy()),
        ("scores", lambda array: array[:0]),
        ("precision", None),
    ],
)
def test_arrays_that_describe_nothing_are_refused(
    description: DomainDescription, name: str, change: Any
) -> None:
    arrays = description.arrays()
    assert DomainDescription.of_arrays(arrays).width == WIDTH
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=r"\w"):
        DomainDescription.of_arrays(arrays)


def test_a_file_of_training_is_taken_for_its_encoder_alone(
    description: DomainDescription, tmp_path: Path
) -> None:
    encoder = encoder_spec(b"graph")
    outputs = (replace(encoder.outputs[0], shape=("n", WIDTH)),)
    encoder = replace(encoder, outputs=outputs)
    path = tmp_path / "domain.npz"
    write_domain(path, description, encoder.weights_sha256)
    assert path.stat().st_size < 2_000_000
    np.testing.assert_array_equal(load_domain(path, encoder).axes, description.axes)
    write_domain(path, description, "ab" * 32)
    with pytest.raises(CheckpointError, match="features of the encoder abababababab"):
        load_domain(path, encoder)
    write_domain(path, description)
    assert load_domain(path, encoder).width == WIDTH
    with pytest.raises(CheckpointError, match="24 features a tile, the encoder gives 8"):
        load_domain(path, replace(encoder, outputs=(replace(outputs[0], shape=("n", 8)),)))
    path.write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="describes no domain"):
        load_domain(path, encoder)
    with pytest.raises(CheckpointError, match="cannot read the domain"):
        load_domain(tmp_path / "none.npz", encoder)


@pytest.mark.parametrize("shape", [(12, 40), (200, 8), (30, 1)])
def test_covariances_are_shrunk_as_scikit_learn_does(shape: tuple[int, int]) -> None:
    from sklearn.covariance import ledoit_wolf

    rows = np.random.default_rng(4).standard_normal(shape) * np.linspace(3, 0.1, shape[1]) + 5
    np.testing.assert_allclose(shrunk_covariance(rows), ledoit_wolf(rows)[0], rtol=1e-10)
