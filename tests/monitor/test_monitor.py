"""Alarms where something changed, seldom where nothing did, and what is read of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact, mannwhitneyu
from typer.testing import CliRunner

from pathgene_rt.cli.main import app
from pathgene_rt.errors import DriftError, UsageError
from pathgene_rt.evaluation.exact import two_sided
from pathgene_rt.evaluation.two_samples import fisher, mann_whitney
from pathgene_rt.monitor.charts import ALL, MonitorOptions, monitor
from pathgene_rt.monitor.observations import Observation, Observed, observe, read_scanners
from pathgene_rt.monitor.page import monitor_page

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = MonitorOptions(baseline=40, window=20, false_alarms=0.05)


def test_tests_of_two_samples_are_those_of_others() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        n, m = (int(one) for one in random.integers(20, 120, 2))
        a, b = int(random.integers(0, n)), int(random.integers(0, m))
        table = [[b, m - b], [a, n - a]]
        sides = [fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
        assert fisher(a, n, b, m) == pytest.approx(min(1.0, 2 * min(sides)), rel=1e-9)
        one, two = np.round(random.normal(0, 1, n), 1), np.round(random.normal(0.3, 1, m), 1)
        expected = mannwhitneyu(two, one, method="asymptotic").pvalue
        assert mann_whitney(one.tolist(), two.tolist()) == pytest.approx(expected, rel=1e-9)
    assert mann_whitney([1.0] * 20, [1.0] * 20) == 1.0 and fisher(0, 20, 0, 20) == 1.0


def history(
    random: np.random.Generator, count: int, scanners: int = 2, change: int | None = None
) -> Observed:
    """Slides of one kind; from number ``change`` on blurred ones are more, answers shift."""
    slides = []
    for number in range(count):
        changed = change is not None and number >= change
        slides.append(
            Observation(
                slide_id=f"s{number:04d}",
                created=BEGIN + timedelta(hours=number),
                scanner=f"scanner {number % scanners}",
                bundle="ab" * 32,
                yes_no={
                    "withheld": bool(random.random() < 0.05),
                    "outside": bool(random.random() < 0.05),
                    "positive egfr": bool(random.random() < 0.3),
                },
                numbers={
                    "unusable": float(random.exponential(0.02)) + 0.1 * changed,
                    "tiles_per_second": float(random.normal(60, 5)),
                    "probability egfr": float(random.beta(1, 2)),
                },
            )
        )
    return Observed(tuple(slides), {})


def test_false_alarms_are_as_seldom_as_stated() -> None:
    random, alarms, runs = np.random.default_rng(1), 0, 80
    for _ in range(runs):
        found = monitor(history(random, 160), SMALL, "now")
        assert found.comparisons == 36 and not found.waiting  # 6 measures, 3 groups, 2 spans
        alarms += bool(found.alarms)
    low, _ = two_sided(alarms, runs, 0.99)
    assert low <= SMALL.false_alarms
    assert alarms > 0  # the rate is not kept by never speaking


def test_what_changes_alarms_and_nothing_else_does() -> None:
    observed = history(np.random.default_rng(2), 160, change=120)
    found = monitor(observed, SMALL, "now")
    assert {alarm.measure for alarm in found.alarms} == {"unusable"}
    assert {alarm.group for alarm in found.alarms} == {ALL, "scanner 0", "scanner 1"}
    latest = next(alarm for alarm in found.alarms if alarm.span == "latest")
    assert latest.before < 0.05 < latest.now
    chart = next(one for one in found.charts if one.measure == "unusable" and one.group == ALL)
    assert len(chart.windows) == 6
    assert [one.p is not None and one.p <= found.limit for one in chart.windows] == [
        *[False] * 4,
        *[True] * 2,
    ]


def test_a_small_change_that_lasts_is_found_by_several_windows_together() -> None:
    random = np.random.default_rng(3)
    slides = list(history(random, 240, scanners=1).slides)
    moved = [
        Observation(**{**vars(one), "numbers": {**one.numbers, "tiles_per_second": speed}})
        for one, speed in zip(
            slides, [*random.normal(60, 5, 160), *random.normal(55.5, 5, 80)], strict=True
        )
    ]
    options = MonitorOptions(baseline=80, window=20, false_alarms=0.01)
    alarms = monitor(Observed(tuple(moved), {}), options, "now").alarms
    assert [(one.measure, one.span) for one in alarms] == [("tiles_per_second", "lasting")]


def test_too_few_slides_wait_and_raise_nothing() -> None:
    found = monitor(history(np.random.default_rng(4), 59, scanners=1), SMALL, "now")
    assert found.waiting == {ALL: 1} and not found.charts and not found.alarms
    assert "Too few slides for a baseline" in monitor_page(found)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_names_alarms_and_the_rule(language: Any) -> None:
    found = monitor(history(np.random.default_rng(2), 160, change=120), SMALL, "2026-01-09")
    page = monitor_page(found, language)
    assert 'data-language="' + language in page
    assert "Unusable tiles, share" in page and "不可用图块比例" in page
    assert "at 5 % of new windows at most" in page and page.count("<figure>") == len(found.charts)


def report(number: int, change: Mapping[str, Any]) -> dict[str, Any]:
    prediction = {
        "head": "egfr",
        "classes": ["wild type", "mutated"],
        "probabilities": [0.7, 0.3],
        "call": "wild type",
        "called": [0],
        "zones": None,
        "reasons": [],
    }
    return {
        "schema_version": 3,
        "slide": f"s{number:03d}",
        "created": (BEGIN + timedelta(minutes=number)).isoformat(),
        "partial": None,
        "predictions": [prediction],
        "quality": {"tissue_area_mm2": 10.0 + number % 7},
        "domain": None,
        "provenance": {
            "bundle": {"sha256": "ab" * 32},
            "slide": {"reader": "tiff", "mpp": 0.25, "vendor": "aperio"},
            "tiles_per_second": 50.0 + number % 5,
        },
        "warnings": [],
        **change,
    }


def write(folder: Path, count: int, change_from: int) -> None:
    for number in range(count):
        change: dict[str, Any] = {}
        if number >= change_from:
            change["quality"] = {"tissue_area_mm2": 10.0, "unusable_tile_share": 0.3}
        (folder / f"s{number:03d}").mkdir(parents=True)
        path = folder / f"s{number:03d}/report.json"
        path.write_text(json.dumps(report(number, change)))


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["monitor", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_ends_with_8_where_something_changed(tmp_path: Path) -> None:
    sizes = ("--baseline", 40, "--window", 20)
    write(tmp_path / "same", 80, 999)
    result = run(tmp_path / "same", *sizes, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["alarms"] == [] and document["slides"] == 80
    assert (tmp_path / "same/monitor.html").is_file()
    write(tmp_path / "changed", 80, 60)
    (tmp_path / "changed/s003/report.json").write_text("{")
    (tmp_path / "changed/s081").mkdir()
    (tmp_path / "changed/s081/report.json").write_text(json.dumps(report(81, {})))
    with pytest.raises(DriftError, match=r"unusable of all: 0 before, 0\.3 now") as caught:
        run(tmp_path / "changed", *sizes, "--out", tmp_path / "page.html")
    assert caught.value.exit_code == 8
    assert "s003" in (tmp_path / "page.html").read_text()


def test_scanners_come_from_reports_or_a_table(tmp_path: Path) -> None:
    write(tmp_path / "p", 3, 999)
    assert {one.scanner for one in observe(tmp_path / "p").slides} == {"aperio, 0.25 um/px"}
    table = tmp_path / "scanners.csv"
    table.write_text("slide,scanner\ns001.svs,GT450-7\n")
    found = observe(tmp_path / "p", read_scanners(table))
    assert [one.scanner for one in found.slides][1] == "GT450-7"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none",), "cannot list none"),
        ((".",), "has no report"),
        ((".", "--window", "5"), "--window 5 is out of range"),
        ((".", "--false-alarms", "0.7"), "--false-alarms 0.7 is out of range"),
        ((".", "--language", "de"), "language 'de' is unknown"),
        ((".", "--scanners", "bad.csv"), "needs the columns slide_id and scanner"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=says):
        run(*arguments)
