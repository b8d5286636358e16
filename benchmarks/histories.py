"""Histories of slides that stay as they are, and such that change: how often monitoring alarms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.bars import Bar, with_interval
from pathgene_rt.evaluation.exact import two_sided
from pathgene_rt.monitor.charts import MonitorOptions, monitor
from pathgene_rt.monitor.observations import Observation, Observed

RUNS = 1000
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def history(random: np.random.Generator, count: int, changed: str, last: int) -> Observed:
    """``count`` slides of two scanners, of which the ``last`` ones have ``changed``."""
    slides = []
    for number in range(count):
        now = changed if number >= count - last else ""
        slides.append(
            Observation(
                slide_id=f"s{number:05d}",
                created=_BEGIN + timedelta(hours=number),
                scanner=f"scanner {number % 2}",
                bundle="",
                yes_no={
                    "withheld": bool(random.random() < (0.25 if now == "withheld" else 0.05)),
                    "outside": bool(random.random() < 0.05),
                    "positive egfr": bool(random.random() < (0.6 if now == "positive" else 0.3)),
                    "positive kras": bool(random.random() < 0.15),
                },
                numbers={
                    "unusable": float(random.exponential(0.04 if now == "blur" else 0.02)),
                    "tissue_area_mm2": float(random.lognormal(4, 0.7)),
                    "domain_score": float(random.gamma(2)) + (0.5 if now == "stain" else 0.0),
                    "tiles_per_second": float(random.normal(60, 8)),
                    "probability egfr": float(random.beta(0.7, 1.2)),
                },
            )
        )
    return Observed(tuple(slides), {})


def monitoring() -> Iterator[Bar]:
    """By the default rule: baselines of 100 slides, windows of 50, 1 % false alarms."""
    options = MonitorOptions()
    random = np.random.default_rng(41)
    alarms = 0
    for _ in range(RUNS):
        found = monitor(history(random, 400, "", 0), options, "")
        alarms += bool(found.alarms)
    low, _ = two_sided(alarms, RUNS)
    yield Bar(
        f"false alarms at a window, {found.comparisons} comparisons",
        with_interval(alarms, RUNS),
        "at most 0.01",
        low <= options.false_alarms,
    )
    for changed, words in (
        ("withheld", "withheld answers, 5 % to 25 %"),
        ("positive", "positive calls, 30 % to 60 %"),
        ("blur", "unusable tiles, twice as many"),
        ("stain", "domain score, up by 0.35 deviations"),
    ):
        hits = sum(
            bool(monitor(history(random, 400, changed, 100), options, "").alarms)
            for _ in range(RUNS // 5)
        )
        yield Bar(
            f"alarm within 100 slides of a change: {words}",
            with_interval(hits, RUNS // 5),
            "no bar",
            held=True,
        )
