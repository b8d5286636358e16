"""Cut-offs from cases: exact bounds, what is refused, and that the stated shares hold elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from pathgene_rt.bundle.arrays import read_arrays
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.exact import least_cases, lower_bound, most_errors, two_sided
from pathgene_rt.evaluation.zones import (
    CaseScores,
    check_zones,
    fit_zones,
    require_support,
)
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.features.domain import ENCODER_ARRAY, DomainDescription
from pathgene_rt.training.checkpoint import load_head
from pathgene_rt.training.config import load_config
from pathgene_rt.training.train import train
from tests.support.training_cohort import CONFIG, ENCODER, write_cohort

BOTH = ZonesConfig(sensitivity=0.9, specificity=0.9)


def scores(positive: np.ndarray | list[float], negative: np.ndarray | list[float]) -> CaseScores:
    """One slide a case."""
    values = [*positive, *negative]
    truth = [True] * len(positive) + [False] * len(negative)
    return CaseScores.of(values, truth, [f"c{number}" for number in range(len(values))])


def drawn(random: np.random.Generator, positive: int, negative: int, apart: float) -> CaseScores:
    """Two normal classes, ``apart`` standard deviations between them."""
    logits = [random.normal(apart, 1, positive), random.normal(0, 1, negative)]
    return scores(*(1 / (1 + np.exp(-2 * each)) for each in logits))


@pytest.mark.parametrize(("right", "cases"), [(0, 5), (5, 5), (17, 20), (59, 59), (180, 200)])
def test_bounds_are_clopper_and_pearsons(right: int, cases: int) -> None:
    result = binomtest(right, cases)
    two = result.proportion_ci(0.95, method="exact")
    assert two_sided(right, cases) == pytest.approx((two.low, two.high))
    one = binomtest(right, cases, alternative="greater").proportion_ci(0.9, method="exact")
    assert lower_bound(right, cases, 0.9) == pytest.approx(one.low)


def test_how_many_cases_show_a_share() -> None:
    assert (least_cases(0.95, 0.95), least_cases(0.9, 0.95)) == (59, 29)
    assert (most_errors(58, 0.95, 0.95), most_errors(59, 0.95, 0.95)) == (None, 0)
    assert [most_errors(n, 0.95, 0.95) for n in (92, 93)] == [0, 1]


@pytest.mark.parametrize(
    ("config", "positive", "negative", "message"),
    [
        (BOTH, 10, 200, "10 positive validation cases cannot show sensitivity = 0.9.*takes 29"),
        (BOTH, 200, 28, "28 negative validation cases cannot show specificity = 0.9.*takes 29"),
        (
            ZonesConfig(method="conformal", sensitivity=0.95),
            10,
            10,
            "10 positive validation cases cannot show sensitivity = 0.95, that takes 19",
        ),
        (
            ZonesConfig(npv=0.98, prevalence=0.4),
            10,
            10,
            "10 positive and 10 negative validation cases cannot show npv = 0.98.*at best 0",
        ),
        (ZonesConfig(ppv=0.9, prevalence=0.1), 50, 10, "cannot show ppv = 0.9.*at best 0"),
    ],
)
def test_what_the_cases_cannot_support_is_refused(
    config: ZonesConfig, positive: int, negative: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        require_support(config, positive, negative)
    with pytest.raises(UsageError, match=message):
        fit_zones(config, drawn(np.random.default_rng(0), positive, negative, 2))


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"sensitivity": 0.9, "npv": 0.9, "prevalence": 0.2},
        {"specificity": 0.9, "ppv": 0.9, "prevalence": 0.2},
        {"npv": 0.9},
        {"sensitivity": 0.9, "prevalence": 0.2},
        {"method": "conformal", "npv": 0.9, "prevalence": 0.2},
        {"sensitivity": math.nan},
        {"sensitivity": 1.0},
        {"sensitivity": 0.9, "confidence": 0.0},
    ],
)
def test_what_a_configuration_cannot_state(entries: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ZonesConfig(**entries)


def test_scores_that_are_no_numbers_and_cases_of_both_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="case c1 has the probability nan"):
        CaseScores.of([0.2, math.nan], [True, False], ["c0", "c1"])
    with pytest.raises(UsageError, match="case c0 has slides of both classes"):
        CaseScores.of([0.2, 0.3], [True, False], ["c0", "c0"])


def test_the_slide_that_is_furthest_off_stands_for_its_case() -> None:
    found = CaseScores.of([0.9, 0.4, 0.1, 0.3], [True, True, False, False], ["p", "p", "n", "n"])
    assert (found.positive.tolist(), found.negative.tolist()) == ([0.4], [0.3])
    assert found.without(["p"]).cases == ("n",)


def test_cut_offs_lie_at_the_allowed_errors() -> None:
    positive, negative = np.arange(100, 200) / 250, np.arange(0, 100) / 200
    zones, notes = fit_zones(BOTH, scores(positive, negative))
    assert zones and zones.rule_out and zones.rule_in and not notes
    allowed = most_errors(100, 0.9, 0.95)
    assert allowed == zones.rule_out.errors == zones.rule_in.errors == 4
    assert zones.low == positive[allowed]
    assert zones.high == math.nextafter(negative[99 - allowed], 1)


def test_a_head_without_errors_gets_one_cut_off() -> None:
    """Nothing is indeterminate where both statements hold at one place."""
    zones, _ = fit_zones(BOTH, scores(np.full(60, 0.9), np.full(60, 0.1)))
    assert zones and zones.low == zones.high and 0.1 < zones.low < 0.9
    zones, _ = fit_zones(
        ZonesConfig(npv=0.9, ppv=0.8, prevalence=0.5), drawn(np.random.default_rng(1), 300, 300, 6)
    )
    assert zones and zones.low <= zones.high


def test_certain_probabilities_leave_nothing_to_cut() -> None:
    zones, notes = fit_zones(BOTH, scores(np.zeros(50), np.ones(50)))
    assert zones is None
    assert ["ruled out" in notes[0], "ruled in" in notes[1]] == [True, True]
    zones, notes = fit_zones(BOTH, scores(np.ones(50), np.zeros(50)))
    assert zones and zones.low == zones.high and not notes


@pytest.mark.parametrize(
    ("config", "measure"),
    [
        (ZonesConfig(sensitivity=0.9, specificity=0.9), "both"),
        (ZonesConfig(npv=0.9, ppv=0.6, prevalence=0.3), "predictive"),
    ],
)
def test_what_is_stated_holds_in_new_cases(config: ZonesConfig, measure: str) -> None:
    """In at least 95 % of cohorts; the true shares are those of a large population."""
    random = np.random.default_rng(7)
    population = drawn(random, 20_000, 20_000, 2.5)
    positive, negative = population.positive, population.negative
    held = []
    for _ in range(200):
        chosen = scores(random.choice(positive, 80), random.choice(negative, 120))
        zones, _ = fit_zones(config, chosen)
        assert zones is not None
        missed, out = (float((each < zones.low).mean()) for each in (positive, negative))
        found, wrong = (float((each >= zones.high).mean()) for each in (positive, negative))
        if measure == "both":
            held += [1 - missed >= 0.9, 1 - wrong >= 0.9]
            continue
        if zones.rule_out:
            held.append(0.7 * out / (0.7 * out + 0.3 * missed) >= 0.9)
        if zones.rule_in:
            held.append(0.3 * found / (0.3 * found + 0.7 * wrong) >= 0.6)
    assert len(held) >= 300
    assert np.mean(held) >= 0.93


def test_conformal_zones_cover_on_average() -> None:
    random = np.random.default_rng(3)
    population = drawn(random, 20_000, 20_000, 1)
    positive, negative = population.positive, population.negative
    config = ZonesConfig(method="conformal", sensitivity=0.9, specificity=0.8)
    missed, wrong = [], []
    for _ in range(300):
        chosen = scores(random.choice(positive, 30), random.choice(negative, 30))
        zones, _ = fit_zones(config, chosen)
        assert zones and zones.rule_out and zones.rule_out.confidence is None
        missed.append((positive < zones.low).mean())
        wrong.append((negative >= zones.high).mean())
    assert np.mean(missed) == pytest.approx(3 / 31, abs=0.012)
    assert np.mean(wrong) == pytest.approx(6 / 31, abs=0.018)


def test_what_is_checked_counts_cases_once() -> None:
    zones, _ = fit_zones(BOTH, scores(np.arange(100, 200) / 250, np.arange(0, 100) / 200))
    assert zones is not None
    low, high = zones.low - 0.01, zones.high + 0.01
    tested = CaseScores.of(
        [low, high, high, high, low, 0.45, high],
        [True, True, True, True, False, False, False],
        ["missed", "missed", "saved", "saved", "out", "open", "wrong"],
    )
    metrics = check_zones([(zones, tested)])
    assert metrics["zones_cases"] == 5
    assert metrics["zones_sensitivity"] == 0.5
    assert metrics["zones_specificity"] == pytest.approx(2 / 3)
    assert metrics["zones_reference_tests_saved"] == pytest.approx(3 / 5)
    assert metrics["zones_sensitivity_interval"] == list(two_sided(1, 2))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zones")
    path = write_cohort(folder, cases=36)
    head = CONFIG[: CONFIG.rindex("[[head]]")]
    path.write_text(head.replace("epochs = 25", "epochs = 2"))
    return path


def trained(path: Path, out: Path, zones: ZonesConfig, **data: Any):
    config = load_config(path)
    heads = (replace(config.head[0], zones=zones),)
    return train(replace(config, head=heads, domain=True, data=replace(config.data, **data)), out)


def test_training_writes_zones_of_validation_cases(cohort: Path, tmp_path: Path) -> None:
    zones = ZonesConfig(method="conformal", sensitivity=0.7, specificity=0.7)
    result = trained(cohort, tmp_path, zones, folds=3, validation=0.4)
    (head,) = result.heads
    found = head.task.zones
    assert found is not None and found == load_head(head.file).task.zones
    assert found.low <= head.task.threshold <= found.high
    slides = [slide for fold in head.folds for slide in fold.split.validation]
    cases = {slide.case_id for slide in slides if slide.label == 1}
    assert found.rule_out is not None and found.rule_out.cases == len(cases)
    assert head.metrics["zones_cases"] == 36
    arrays = read_arrays((tmp_path / "domain.npz").read_bytes())
    assert arrays.pop(ENCODER_ARRAY).tobytes().hex() == ENCODER
    assert len(DomainDescription.of_arrays(arrays).scores) == 36, "one of each case"
    low, high = head.metrics["zones_reference_tests_saved_interval"]
    assert low <= head.metrics["zones_reference_tests_saved"] <= high


def test_training_refuses_before_it_begins(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"head egfr: .* positive validation cases cannot show"):
        trained(cohort, tmp_path, BOTH)
    assert not list(tmp_path.rglob("*.pt"))


def test_zones_in_the_toml_are_read_and_checked(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    text = cohort.read_text()
    path.write_text(text + "[head.zones]\nsensitivity = 0.95\nppv = 0.8\nprevalence = 0.3\n")
    assert load_config(path).head[0].zones == ZonesConfig(sensitivity=0.95, ppv=0.8, prevalence=0.3)
    path.write_text(text + "[head.zones]\nsensitivity = 0.95\nnpv = 0.8\nprevalence = 0.3\n")
    with pytest.raises(UsageError, match="sensitivity and npv are two cut-offs"):
        load_config(path)
