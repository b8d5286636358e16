"""From logits to a call: calibration, thresholds, several classes, several labels."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.bundle.calibration import Activation, TemperatureScaling
from pathgene_rt.bundle.hierarchy import Hierarchy, hierarchy_problems
from pathgene_rt.bundle.spec import Calibration, HeadSpec, ModelSpec, Task, TensorSpec
from pathgene_rt.errors import EngineError
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import applied_threshold, make_prediction, mean_prediction

FINITE = st.floats(-1e30, 1e30)


def head(
    *classes: str, activation: Activation | None = "softmax", threshold=0.5, temperature=1.0
) -> HeadSpec:
    model = ModelSpec(
        name="egfr",
        architecture="abmil",
        inputs=(TensorSpec(name="features", dtype="float32", shape=("n", 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(len(classes),)),),
        onnx_sha256="0" * 64,
        weights_sha256="0" * 64,
        classes=classes,
        activation=activation,
    )
    calibration = Calibration(temperature=temperature)
    task = Task(kind="mutation", gene="EGFR", threshold=threshold, calibration=calibration)
    return HeadSpec(model=model, file="heads/egfr.onnx", task=task)


def replace_threshold(spec: HeadSpec, threshold: float) -> HeadSpec:
    return replace(spec, task=replace(spec.task, threshold=threshold))


@given(st.lists(FINITE, min_size=1, max_size=6), st.floats(0.01, 100))
def test_probabilities_of_any_finite_logits(logits: list[float], temperature: float) -> None:
    softmax = TemperatureScaling("softmax", temperature).apply(logits)
    sigmoid = TemperatureScaling("sigmoid", temperature).apply(logits)
    assert softmax.sum() == pytest.approx(1)
    for probabilities in (softmax, sigmoid):
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
        order = np.argsort(logits, kind="stable")
        assert (np.diff(probabilities[order]) >= 0).all()


def test_probabilities_by_hand() -> None:
    softmax, sigmoid = TemperatureScaling("softmax"), TemperatureScaling("sigmoid")
    softer = TemperatureScaling("softmax", 2)
    np.testing.assert_allclose(softmax.apply([0, math.log(3)]), [0.25, 0.75])
    np.testing.assert_allclose(softer.apply([0, 2 * math.log(3)]), [0.25, 0.75])
    np.testing.assert_allclose(sigmoid.apply([-math.log(3), 0]), [0.25, 0.5])
    batch = softmax.apply([[0, 0], [0, math.log(9)]])
    np.testing.assert_allclose(batch, [[0.5, 0.5], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("threshold", "call"), [(0.5, "mutated"), (0.75, "mutated"), (0.76, "wild type")]
)
def test_the_threshold_of_two_classes_is_on_the_last(threshold: float, call: str) -> None:
    spec = head("wild type", "mutated", threshold=threshold)
    prediction = make_prediction(spec, [0, math.log(3) + 1e-9])
    assert (prediction.call, prediction.threshold) == (call, threshold)
    assert prediction.probabilities[1] == pytest.approx(0.75)


def test_of_several_classes_the_likeliest_is_called() -> None:
    spec = head("exon 19", "exon 20", "exon 21", threshold=0.9)
    prediction = make_prediction(spec, [0.1, 0.3, 0.2])
    assert (prediction.call, prediction.called, prediction.threshold) == ("exon 20", (1,), None)


@pytest.mark.parametrize(
    ("logits", "call"), [([2, -2, 0.5], "A, C"), ([-2, -2, 0.3], "none"), ([-9, 9, -9], "B")]
)
def test_sigmoid_calls_every_class_over_the_threshold(logits: list[float], call: str) -> None:
    prediction = make_prediction(
        head("A", "B", "C", activation="sigmoid", threshold=0.6), np.array(logits, np.float32)
    )
    assert prediction.call == call


@pytest.mark.parametrize(("logit", "call"), [(0.1, "TMB high"), (-0.1, "none")])
def test_a_single_sigmoid_class(logit: float, call: str) -> None:
    assert make_prediction(head("TMB high", activation="sigmoid"), [logit]).call == call


def test_a_mean_of_slides_is_called_as_a_slide_is() -> None:
    """Calibrated probabilities are averaged, not logits, and meet the head's own threshold."""
    spec = head("w", "m", threshold=0.7, temperature=2)
    slides = [make_prediction(spec, [0, 2 * math.log(odds)]) for odds in (1, 9)]
    assert [slide.call for slide in slides] == ["w", "m"]
    mean = mean_prediction(spec, slides)
    assert mean.probabilities == pytest.approx((0.3, 0.7)) and mean.logits is None
    assert mean_prediction(replace_threshold(spec, 0.69), slides).call == "m"
    assert mean_prediction(replace_threshold(spec, 0.71), slides).call == "w"
    labels = head("A", "B", activation="sigmoid")
    both = [make_prediction(labels, logits) for logits in ([9, -9], [9, 9])]
    assert mean_prediction(labels, both).call == "A, B"


@pytest.mark.parametrize(
    ("spec", "threshold"),
    [
        (head("w", "m", threshold=0.3), 0.3),
        (head("a", "b", "c", threshold=0.3), None),
        (head("a", "b", "c", activation="sigmoid", threshold=0.3), 0.3),
        (head("a", activation="sigmoid", threshold=0.3), 0.3),
    ],
)
def test_where_a_threshold_applies(spec: HeadSpec, threshold: float | None) -> None:
    assert applied_threshold(spec) == threshold


def test_temperature_moves_the_call_only_across_a_threshold_beside_one_half() -> None:
    logits = [0.0, 1.0]
    sharp = make_prediction(head("w", "m", threshold=0.7), logits)
    soft = make_prediction(head("w", "m", threshold=0.7, temperature=4), logits)
    assert (sharp.call, soft.call) == ("m", "w")


@pytest.mark.parametrize("logits", [[0, math.nan], [math.inf, 0], [0, -math.inf]])
def test_logits_that_are_not_finite_name_the_head(logits: list[float]) -> None:
    with pytest.raises(EngineError, match="head egfr"):
        make_prediction(head("w", "m"), logits)


@pytest.mark.parametrize(
    "spec", [head("w", "m"), head("only"), head("w", "m", "x", activation=None)]
)
def test_heads_that_make_no_probabilities_of_three_logits(spec: HeadSpec) -> None:
    with pytest.raises(EngineError, match="export the bundle again"):
        make_prediction(spec, [0, 1, 2])


def test_as_json() -> None:
    document = make_prediction(head("wild type", "mutated"), [0, 0]).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document == {
        "head": "egfr",
        "task": "mutation",
        "gene": "EGFR",
        "classes": ["wild type", "mutated"],
        "probabilities": [0.5, 0.5],
        "call": "mutated",
        "reasons": [],
        "called": [1],
        "coarse": None,
        "zones": None,
        "threshold": 0.5,
        "logits": [0.0, 0.0],
        "has_attention": False,
        "interval": None,
    }


EXONS = ("exon 19", "L858R", "exon 20")
GROUPS = Hierarchy(
    at_least=0.7, groups={"sensitising": ("exon 19", "L858R"), "exon 20": ("exon 20",)}
)


@pytest.mark.parametrize(
    ("probabilities", "call", "coarse", "code"),
    [
        ((0.75, 0.15, 0.1), "exon 19", None, None),
        ((0.5, 0.35, 0.15), "sensitising", "sensitising", "fell_back"),
        ((0.2, 0.2, 0.6), "indeterminate", None, "no_class_certain"),
    ],
)
def test_uncertain_classes_fall_back_to_their_group(
    probabilities: tuple[float, ...], call: str, coarse: str | None, code: str | None
) -> None:
    spec = head(*EXONS)
    spec = replace(spec, task=replace(spec.task, hierarchy=GROUPS))
    prediction = make_prediction(spec, np.log(probabilities))
    document = prediction.to_dict()
    assert (prediction.call, document["call"], document["coarse"]) == (call, call, coarse)
    assert [reason["code"] for reason in document["reasons"]] == ([code] if code else [])
    assert document["called"] == ([0] if code is None else [])
    assert prediction.is_decided == (code is None)
    # Of a slide that was seen in part the lower ends decide.
    narrow = tuple((p - 0.2, p + 0.05) for p in probabilities)
    assert replace(prediction, interval=narrow).call == "indeterminate"
    reason = Reason(code="too_few_tiles", figures={"tiles": 1, "least": 9})
    assert replace(prediction, withheld=(reason,)).call == "withheld"


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": ("exon 19", "L858R")}, "'exon 20' is missing, unknown or twice"),
        ({"a": EXONS, "b": ("KRAS",)}, "'KRAS' is missing"),
        ({"a": EXONS, "b": ("L858R",)}, "'L858R' is missing, unknown or twice"),
        ({"L858R": EXONS}, "a group called 'L858R' as one of its classes"),
    ],
)
def test_hierarchies_that_cannot_be(groups: dict[str, tuple[str, ...]], says: str) -> None:
    hierarchy = Hierarchy(groups=groups, at_least=0.7)
    assert says in next(hierarchy_problems(hierarchy, EXONS, "softmax"))
    assert "three or more" in next(hierarchy_problems(GROUPS, EXONS[:2], "softmax"))
