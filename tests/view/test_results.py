"""The list of results: what counts as one, and what is said of those that are not (yet) whole."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pathgene_rt.errors import OutputError
from pathgene_rt.view.results import ResultFolder
from tests.support.view_results import ViewResults, change_report, write_view_case


@pytest.fixture
def predictions(view_results: ViewResults, tmp_path: Path) -> Path:
    folder = tmp_path / "predictions"
    shutil.copytree(view_results.predictions, folder)
    return folder


def listed(folder: Path) -> dict:
    return ResultFolder(folder).results()


def test_each_subfolder_with_a_report_is_a_result(predictions: Path) -> None:
    (predictions / "empty").mkdir()
    found = listed(predictions)
    assert list(found) == ["case-1", "case-2"]
    summary = found["case-2"].to_dict()
    assert summary["slide"] == "case-2" and summary["warnings"] == 1
    assert summary["quality"]["damaged_tiles"] == 2
    assert [one["call"] for one in summary["predictions"]] == ["mutated", "wild type", "mutated"]


def test_a_single_slides_folder_is_one_result(predictions: Path) -> None:
    assert list(listed(predictions / "case-1")) == ["case-1"]


def test_cases_are_listed_beside_the_slides(view_results: ViewResults, predictions: Path) -> None:
    write_view_case(replace(view_results, predictions=predictions), "case-1")
    found = listed(predictions)
    assert list(found) == ["case-1", "case-2", "case:case-1"]
    case = found["case:case-1"].to_dict()
    assert (case["is_case"], case["slide"], case["slides"]) == (
        True,
        "case-1",
        ["case-1", "case-2"],
    )
    assert [(one["call"], one["mean_call"]) for one in case["predictions"]] == [
        ("mutated", "wild type")
    ]
    assert not found["case-1"].is_case
    document = predictions / "cases" / "case-1" / "case.json"
    document.write_text(document.read_text().replace('"schema_version": 2', '"schema_version": 9'))
    damaged = listed(predictions)["case:case-1"]
    assert (damaged.state, damaged.problem_value) == ("unreadable", "9")
    document.unlink()
    (predictions / "cases" / "elsewhere").symlink_to(predictions / "case-1")
    assert list(listed(predictions)) == ["case-1", "case-2"]


def test_reports_of_version_1_are_shown(predictions: Path) -> None:
    change_report(predictions / "case-1", schema_version=1)
    assert listed(predictions)["case-1"].state == "ready"


def test_an_unknown_version_is_said_to_be_that(predictions: Path) -> None:
    change_report(predictions / "case-1", schema_version=99)
    one = listed(predictions)["case-1"]
    assert (one.state, one.problem, one.problem_value) == ("unreadable", "problem_version", "99")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "problem_no_report"),
        ('{"schema_version": 2', "problem_no_report"),
        ("[" * 100_000, "problem_no_report"),
        ("[]", "problem_no_report"),
        ('{"schema_version": 2}', "problem_content"),
        ('{"schema_version": 2, "quality": 7}', "problem_content"),
        ('{"schema_version": [2]}', "problem_version"),
    ],
)
def test_damaged_reports_are_listed_as_such(predictions: Path, text: str, problem: str) -> None:
    (predictions / "case-1" / "report.json").write_text(text)
    one = listed(predictions)["case-1"]
    assert (one.state, one.problem) == ("unreadable", problem)
    assert listed(predictions)["case-2"].state == "ready"


def test_a_folder_that_is_being_written_becomes_a_result(predictions: Path) -> None:
    results = ResultFolder(predictions, fresh_s=0)
    report = predictions / "case-1" / "report.json"
    text = report.read_text()
    report.unlink()
    assert results.results()["case-1"].state == "writing"
    report.write_text(text)
    assert results.results()["case-1"].state == "ready"
    shutil.rmtree(predictions / "case-1")
    assert list(results.results()) == ["case-2"]


def test_a_report_that_changed_is_read_again(predictions: Path) -> None:
    results = ResultFolder(predictions, fresh_s=0)
    assert results.results()["case-1"].summary["warnings"] == 0
    change_report(predictions / "case-1", warnings=["one", "two"])
    assert results.results()["case-1"].summary["warnings"] == 2


def test_links_that_lead_outside_are_no_results(predictions: Path, tmp_path: Path) -> None:
    (predictions / "case-1").rename(tmp_path / "elsewhere")
    (predictions / "case-1").symlink_to(tmp_path / "elsewhere")
    results = ResultFolder(predictions)
    assert list(results.results()) == ["case-2"]
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (predictions / "case-2" / "heatmap_x.png").symlink_to(secret)
    one = results.results()["case-2"]
    assert results.file(one, "heatmap_egfr.png") is not None
    for name in ("heatmap_x.png", "../secret.png", "", "..", "a/b", str(secret)):
        assert results.file(one, name) is None


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot list the results folder .*--out"):
        ResultFolder(tmp_path / "nothing")
