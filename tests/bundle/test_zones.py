"""Decision zones in a manifest: what is refused, and which zone a probability lies in."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pathgene_rt.bundle.bundle import BundleManifest, parse_manifest
from pathgene_rt.bundle.zones import CutOff, DecisionZones, Zone
from pathgene_rt.errors import BundleError
from tests.support.tiny_models import tiny_bundle_files

OUT = CutOff(value=0.2, measure="sensitivity", at_least=0.95, confidence=0.95, cases=80, errors=1)
IN = CutOff(value=0.7, measure="specificity", at_least=0.9, confidence=0.95, cases=90, errors=3)
BOTH = DecisionZones(rule_out=OUT, rule_in=IN)


@pytest.mark.parametrize(
    ("zones", "least", "most", "zone"),
    [
        (BOTH, 0.199, 0.199, "negative"),
        (BOTH, 0.2, 0.2, "indeterminate"),
        (BOTH, 0.699, 0.699, "indeterminate"),
        (BOTH, 0.7, 0.7, "positive"),
        (BOTH, 0.1, 0.3, "indeterminate"),
        (BOTH, 0.1, 0.19, "negative"),
        (BOTH, 0.6, 0.9, "indeterminate"),
        (BOTH, 0.0, 1.0, "indeterminate"),
        (DecisionZones(rule_out=OUT), 1.0, 1.0, "indeterminate"),
        (DecisionZones(rule_in=IN), 0.0, 0.0, "indeterminate"),
    ],
)
def test_the_zone_of_a_probability(
    zones: DecisionZones, least: float, most: float, zone: Zone
) -> None:
    assert zones.zone(least, most) == zone


def test_one_cut_off_may_do_both() -> None:
    zones = DecisionZones(rule_out=replace(OUT, value=0.5), rule_in=replace(IN, value=0.5))
    assert [zones.zone(p, p) for p in (0.49, 0.5)] == ["negative", "positive"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule_out": None, "rule_in": None}, "need a cut-off"),
        ({"rule_out": {**asdict(OUT), "value": 0.8}}, "the cut-offs are crossed: rule_out 0.8"),
        ({"rule_out": {**asdict(OUT), "value": math.nan}}, "value"),
        ({"rule_out": {**asdict(OUT), "value": 0.0}}, "value"),
        ({"rule_in": {**asdict(IN), "value": 1.0}}, "value"),
        ({"rule_in": {**asdict(IN), "at_least": math.inf}}, "at_least"),
        ({"rule_in": {**asdict(IN), "cases": 0}}, "cases"),
        ({"rule_in": {**asdict(IN), "measure": "auroc"}}, "measure"),
        ({"rule_in": {**asdict(IN), "measure": "npv"}}, "rule_in holds no npv"),
        ({"rule_out": {**asdict(OUT), "measure": "ppv"}}, "rule_out holds no ppv"),
        ({"rule_maybe": None}, "rule_maybe"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(DecisionZones).validate_python({**asdict(BOTH), **changes})


@pytest.fixture(scope="module")
def manifest() -> BundleManifest:
    return parse_manifest(tiny_bundle_files()["bundle.json"], Path("tiny.pgrt"))


def _with_zones(manifest: BundleManifest, zones: DecisionZones, threshold: float) -> bytes:
    head = manifest.heads[0]
    task = replace(head.task, zones=zones, threshold=threshold)
    return replace(manifest, heads=(replace(head, task=task),)).to_json()


def test_a_manifest_keeps_them_and_refuses_contradictions(manifest: BundleManifest) -> None:
    path = Path("x.pgrt")
    kept = parse_manifest(_with_zones(manifest, BOTH, 0.4), path)
    assert kept.heads[0].task.zones == BOTH
    with pytest.raises(BundleError, match=r"threshold 0.8 of head .* outside its decision zones"):
        parse_manifest(_with_zones(manifest, BOTH, 0.8), path)
    crossed = _with_zones(manifest, BOTH, 0.4).replace(b'"value": 0.2', b'"value": 0.75')
    with pytest.raises(BundleError, match=r"zones.*the cut-offs are crossed"):
        parse_manifest(crossed, path)
    for number in (b"NaN", b"Infinity", b"-0.1", b'"a"'):
        bad = _with_zones(manifest, BOTH, 0.4).replace(b'"value": 0.2', b'"value": ' + number)
        with pytest.raises(BundleError, match="export it again"):
            parse_manifest(bad, path)
