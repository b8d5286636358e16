"""What call a prediction has: zones, intervals that reach over a cut-off, answers withheld."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from pathgene_rt.bundle.zones import CutOff, DecisionZones
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction, make_prediction, mean_prediction
from tests.heads.test_prediction import head

OUT = CutOff(value=0.2, measure="sensitivity", at_least=0.95, confidence=0.95, cases=80, errors=1)
IN = CutOff(value=0.7, measure="specificity", at_least=0.9, confidence=0.95, cases=90, errors=3)
SPEC = head("wild type", "mutated")
ZONED = replace(
    SPEC, task=replace(SPEC.task, zones=DecisionZones(rule_out=OUT, rule_in=IN), threshold=0.5)
)


def predicted(probability: float, spec=ZONED) -> Prediction:
    return make_prediction(spec, [0, math.log(probability / (1 - probability))])


@pytest.mark.parametrize(
    ("probability", "call", "called", "code"),
    [
        (0.1, "negative", [0], "ruled_out"),
        (0.3, "indeterminate", [], "between_cut_offs"),
        (0.6, "indeterminate", [], "between_cut_offs"),
        (0.8, "positive", [1], "ruled_in"),
    ],
)
def test_zones_make_the_call(probability: float, call: str, called: list[int], code: str) -> None:
    prediction = predicted(probability)
    document = prediction.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (prediction.call, document["call"], document["called"]) == (call, call, called)
    (reason,) = document["reasons"]
    assert reason["code"] == code
    assert set(reason["figures"].values()) <= {0.2, 0.7}
    assert document["zones"]["rule_out"]["value"] == 0.2


def test_without_zones_the_threshold_calls_as_ever() -> None:
    document = predicted(0.3, SPEC).to_dict()
    assert (document["call"], document["called"]) == ("wild type", [0])
    assert (document["reasons"], document["zones"]) == ([], None)


@pytest.mark.parametrize(
    ("zones", "codes"),
    [
        (DecisionZones(rule_out=OUT), ("ruled_out", "not_ruled_out")),
        (DecisionZones(rule_in=IN), ("not_ruled_in", "ruled_in")),
    ],
)
def test_one_cut_off_alone(zones: DecisionZones, codes: tuple[str, str]) -> None:
    spec = replace(ZONED, task=replace(ZONED.task, zones=zones))
    found = [predicted(p, spec).decision for p in (0.1, 0.9)]
    assert tuple(one.reasons[0].code for one in found if one) == codes


@pytest.mark.parametrize(
    ("interval", "call"), [((0.75, 0.9), "positive"), ((0.6, 0.9), "indeterminate")]
)
def test_part_of_a_slide_is_decided_only_if_its_interval_is(
    interval: tuple[float, float], call: str
) -> None:
    both = (tuple(1 - end for end in reversed(interval)), interval)
    prediction = replace(predicted(0.8), interval=both)
    assert prediction.call == call
    codes = {"positive": "ruled_in", "indeterminate": "interval_reaches_over"}
    assert prediction.to_dict()["reasons"][0]["code"] == codes[call]


@pytest.mark.parametrize("spec", [SPEC, ZONED])
def test_an_answer_that_is_withheld_is_none(spec) -> None:
    reason = Reason(code="ruled_in", figures={"high": 0.7})
    prediction = replace(predicted(0.9, spec), withheld=(reason, reason))
    document = prediction.to_dict()
    assert (document["call"], document["called"], len(document["reasons"])) == ("withheld", [], 2)
    assert document["reasons"][0]["text"] == reason.text and "0.7" in reason.text


def test_a_mean_of_slides_has_the_zones_of_the_head() -> None:
    slides = [predicted(0.1), predicted(0.6)]
    assert mean_prediction(ZONED, slides).call == "indeterminate"
    assert mean_prediction(ZONED, [predicted(0.75), predicted(0.9)]).call == "positive"
