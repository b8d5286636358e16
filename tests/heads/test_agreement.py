"""A panel that agrees with itself: what needs another head's call, and what contradicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pathgene_rt.bundle.bundle import parse_manifest
from pathgene_rt.bundle.panel import Requirement, panel_problems
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.errors import BundleError
from pathgene_rt.heads.agreement import agreeing, contradictions
from pathgene_rt.heads.prediction import Prediction, make_prediction
from tests.heads.test_decision import ZONED
from tests.heads.test_prediction import head
from tests.support import tiny_models as tiny


def named(spec: HeadSpec, name: str) -> HeadSpec:
    return replace(spec, model=replace(spec.model, name=name))


EGFR = named(head("wild type", "mutated"), "egfr")
EGFR_ZONED = named(ZONED, "egfr")
EXON = named(head("exon 19", "exon 20", "exon 21"), "exon")
L858R = named(head("absent", "present"), "l858r")
PARTNERS = named(head("TP53", "RB1", activation="sigmoid"), "partners")
PANEL = (
    Requirement(head="l858r", needs="exon", called="exon 21"),
    Requirement(head="exon", needs="egfr", called="mutated"),
)


def calls(predictions: Sequence[Prediction]) -> list[str]:
    return [one.call for one in agreeing(PANEL, predictions)]


def predictions(egfr: float, exon: int, l858r: float, spec=EGFR) -> list[Prediction]:
    place = [0.0, 0.0, 0.0]
    place[exon] = 3.0
    return [
        make_prediction(spec, [0, egfr]),
        make_prediction(EXON, place),
        make_prediction(L858R, [0, l858r]),
    ]


def test_an_answer_is_given_only_where_what_it_needs_is_called() -> None:
    assert calls(predictions(2, 2, 1)) == ["mutated", "exon 21", "present"]
    assert calls(predictions(2, 0, 1)) == ["mutated", "exon 19", "withheld"]
    assert calls(predictions(-2, 2, 1)) == ["wild type", "withheld", "withheld"]


def test_what_is_not_decided_is_not_called() -> None:
    assert calls(predictions(2, 2, 1, EGFR_ZONED)) == ["positive", "exon 21", "present"]
    assert calls(predictions(0, 2, 1, EGFR_ZONED)) == ["indeterminate", "withheld", "withheld"]
    assert calls(predictions(-2, 2, 1, EGFR_ZONED)) == ["negative", "withheld", "withheld"]


def test_the_reason_names_head_and_class() -> None:
    exon = agreeing(PANEL, predictions(-2, 2, 1))[1]
    document = exon.to_dict()
    assert document["reasons"][0]["names"] == {"head": "egfr", "called": "mutated"}
    assert "egfr is called “mutated”" in document["reasons"][0]["text"]
    assert (document["called"], document["probabilities"]) == ([], list(exon.probabilities))


def test_no_panel_changes_nothing() -> None:
    given = predictions(-2, 2, 1)
    assert agreeing((), given) == tuple(given)
    assert contradictions((), (EGFR, EXON, L858R), given) == ()


@pytest.mark.parametrize(
    ("egfr", "l858r", "count"), [(2, 2, 0), (-2, -2, 0), (-2, 2, 1), (2, -2, 1)]
)
def test_contradictions_are_told(egfr: float, l858r: float, count: int) -> None:
    panel = (Requirement(head="l858r", needs="egfr", called="mutated"),)
    given = [make_prediction(EGFR, [0, egfr]), make_prediction(L858R, [0, l858r])]
    found = contradictions(panel, (EGFR, L858R), agreeing(panel, given))
    assert len(found) == count
    if found:
        assert ("egfr is called" in found[0], "l858r by itself" in found[0]) == (True, True)


def test_heads_that_always_name_a_class_contradict_nothing_and_several_labels_may() -> None:
    panel = (
        Requirement(head="exon", needs="egfr", called="mutated"),
        Requirement(head="partners", needs="egfr", called="mutated"),
    )
    given = [
        make_prediction(EGFR, [0, -2]),
        make_prediction(EXON, [3, 0, 0]),
        make_prediction(PARTNERS, [-2, 3]),
    ]
    (found,) = contradictions(panel, (EGFR, EXON, PARTNERS), given)
    assert found == (
        "egfr is called wild type, but partners by itself would be called RB1: one of them is wrong"
    )


@pytest.mark.parametrize(
    ("panel", "problem"),
    [
        ([("exon", "kras", "mutated")], "names the head kras"),
        ([("exon", "egfr", "Mutated")], "'Mutated', which is none of its classes"),
        ([("exon", "egfr", "mutated"), ("exon", "egfr", "mutated")], "twice"),
        ([("egfr", "egfr", "mutated")], "needs egfr for itself"),
        ([("exon", "egfr", "mutated"), ("egfr", "exon", "exon 19")], "needs exon for itself"),
    ],
)
def test_panels_that_cannot_be(panel: list[tuple[str, str, str]], problem: str) -> None:
    classes = {"egfr": EGFR.model.classes, "exon": EXON.model.classes}
    given = [Requirement(head=head, needs=needs, called=called) for head, needs, called in panel]
    assert any(problem in found for found in panel_problems(given, classes))


def test_a_manifest_with_a_wrong_panel_is_refused(tmp_path) -> None:
    files = tiny.tiny_bundle_files()
    wrong = [{"head": "egfr", "needs": "kras", "called": "mutated"}]
    changed = tiny.edit_manifest(files, {"panel": wrong})["bundle.json"]
    with pytest.raises(BundleError, match="the panel names the head kras, which is not there"):
        parse_manifest(changed, tmp_path)
    with pytest.raises(BundleError, match=r"panel\.0\.needs"):
        parse_manifest(
            tiny.edit_manifest(files, {"panel": [{"head": "egfr"}]})["bundle.json"], tmp_path
        )
