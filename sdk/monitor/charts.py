"""Windows of slides against a baseline, with a stated rate of false alarms.

The first slides are the baseline; those after it are taken in windows of equal size. Each measure
of each group (all slides, those of each scanner) is compared with its baseline by tests that hold
their error rate whatever the measure's distribution is and however small the baseline
(:mod:`~pathgene_rt.evaluation.two_samples`): of the latest window, where a change that is large
shows at once, and of the latest few windows together, where one shows that is small and lasts. All
comparisons of one look share the rate of false alarms (C. Bonferroni, 1936): if nothing has
changed, a new window raises an alarm with at most that probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.two_samples import fisher, mann_whitney
from pathgene_rt.monitor.observations import Observation, Observed

SCHEMA_VERSION = 1
ALL = "all"
LEAST_WINDOW = 20
"""Fewer slides tell little, and ranks are not near enough to normal."""
LONG_WINDOWS = 4

Span = Literal["latest", "lasting"]
Kind = Literal["share", "number"]


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """``baseline`` slides first, then windows of ``window``; ``false_alarms`` is the probability of
    any alarm at a new window if nothing has changed."""

    baseline: int = 100
    window: int = 50
    false_alarms: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("--baseline", self.baseline), ("--window", self.window)):
            if not LEAST_WINDOW <= value <= 1_000_000:
                raise UsageError(f"{name} {value} is out of range; give at least {LEAST_WINDOW}")
        if not 0 < self.false_alarms < 0.5:
            raise UsageError(
                f"--false-alarms {self.false_alarms:g} is out of range; give e.g. 0.01"
            )


@dataclass(frozen=True, kw_only=True)
class Window:
    """Of one measure: from ``first`` to ``last`` slide, made from ``begin`` to ``end`` (ISO 8601).
    ``value`` is the share of yes, or the median with its quartiles ``low`` and ``high``; None where
    no slide says it. ``p`` is against the baseline, of this window and of the last few together."""

    first: str
    last: str
    begin: str
    end: str
    slides: int
    value: float | None
    low: float | None
    high: float | None
    p: float | None = None
    p_lasting: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One ``measure`` of one ``group``, its baseline first."""

    group: str
    measure: str
    kind: Kind
    baseline: Window
    windows: tuple[Window, ...]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """``measure`` of ``group`` was ``before`` in the baseline and is ``now`` in the ``span``."""

    group: str
    measure: str
    span: Span
    before: float
    now: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """All charts, and the alarms of each group's latest window. ``limit`` is what a p value must be
    below, ``comparisons`` share the rate. ``waiting`` says how many slides each group lacks for its
    baseline and first window; ``bundles`` counts slides by the hash of their bundle."""

    options: MonitorOptions
    slides: int
    begin: str
    end: str
    comparisons: int
    limit: float
    charts: tuple[Chart, ...]
    alarms: tuple[Alarm, ...]
    waiting: Mapping[str, int]
    bundles: Mapping[str, int]
    unread: Mapping[str, str]
    created: str
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def monitor(observed: Observed, options: MonitorOptions, created: str) -> Monitoring:
    """The charts of ``observed``, made ``created`` (ISO 8601)."""
    slides = observed.slides
    groups: dict[str, list[Observation]] = {ALL: list(slides)}
    scanners = {one.scanner for one in slides}
    if len(scanners) > 1:
        for name in sorted(scanners):
            groups[name] = [one for one in slides if one.scanner == name]
    least = options.baseline + options.window
    waiting = {name: least - len(own) for name, own in groups.items() if len(own) < least}
    charts = tuple(
        chart
        for name, own in groups.items()
        if name not in waiting
        for chart in _charts(name, own, options)
    )
    latest = [(chart, chart.windows[-1]) for chart in charts]
    found = [
        (chart, span, p)
        for chart, window in latest
        for span, p in (("latest", window.p), ("lasting", window.p_lasting))
        if p is not None
    ]
    limit = options.false_alarms / max(1, len(found))
    counted: dict[str, int] = {}
    for one in slides:
        counted[one.bundle] = counted.get(one.bundle, 0) + 1
    return Monitoring(
        options=options,
        slides=len(slides),
        begin=slides[0].created.isoformat(),
        end=slides[-1].created.isoformat(),
        comparisons=len(found),
        limit=limit,
        charts=charts,
        alarms=tuple(
            _alarm(chart, "lasting" if span == "lasting" else "latest", p)
            for chart, span, p in found
            if p <= limit
        ),
        waiting=waiting,
        bundles=counted,
        unread=observed.unread,
        created=created,
    )


def _charts(group: str, slides: Sequence[Observation], options: MonitorOptions) -> list[Chart]:
    first, rest = slides[: options.baseline], slides[options.baseline :]
    count = len(rest) // options.window
    parts = [rest[n * options.window : (n + 1) * options.window] for n in range(count)]
    shares = dict.fromkeys(name for one in slides for name in one.yes_no)
    numbers = dict.fromkeys(name for one in slides for name in one.numbers)
    charts = [_chart(group, name, "share", first, parts) for name in shares]
    charts += [_chart(group, name, "number", first, parts) for name in numbers]
    return [chart for chart in charts if chart is not None]


def _chart(
    group: str,
    measure: str,
    kind: Kind,
    first: Sequence[Observation],
    parts: Sequence[Sequence[Observation]],
) -> Chart | None:
    """None where the baseline or the latest window says too little of the measure."""
    base = _values(measure, kind, first)
    own = [_values(measure, kind, part) for part in parts]
    if len(base) < LEAST_WINDOW or len(own[-1]) < LEAST_WINDOW // 2:
        return None
    windows = []
    for number, part in enumerate(parts):
        values = own[number]
        several = own[max(0, number + 1 - LONG_WINDOWS) : number + 1]
        lasting = [value for one in several for value in one]
        windows.append(
            _window(
                part,
                kind,
                values,
                _p(kind, base, values) if values else None,
                _p(kind, base, lasting) if len(several) > 1 and lasting else None,
            )
        )
    return Chart(
        group=group,
        measure=measure,
        kind=kind,
        baseline=_window(first, kind, base, None, None),
        windows=tuple(windows),
    )


def _values(measure: str, kind: Kind, slides: Sequence[Observation]) -> list[float]:
    if kind == "share":
        return [float(one.yes_no[measure]) for one in slides if measure in one.yes_no]
    return [one.numbers[measure] for one in slides if measure in one.numbers]


def _p(kind: Kind, base: Sequence[float], values: Sequence[float]) -> float:
    if kind == "share":
        return fisher(int(sum(base)), len(base), int(sum(values)), len(values))
    return mann_whitney(base, values)


def _window(
    slides: Sequence[Observation],
    kind: Kind,
    values: Sequence[float],
    p: float | None,
    p_lasting: float | None,
) -> Window:
    value = low = high = None
    if values and kind == "share":
        value = float(np.mean(values))
    elif values:
        low, value, high = (float(one) for one in np.percentile(values, (25, 50, 75)))
    return Window(
        first=slides[0].slide_id,
        last=slides[-1].slide_id,
        begin=slides[0].created.isoformat(),
        end=slides[-1].created.isoformat(),
        slides=len(values),
        value=value,
        low=low,
        high=high,
        p=p,
        p_lasting=p_lasting,
    )


def _alarm(chart: Chart, span: Span, p: float) -> Alarm:
    windows = chart.windows[-1:] if span == "latest" else chart.windows[-LONG_WINDOWS:]
    known = [one for one in windows if one.value is not None]
    weights = [one.slides for one in known]
    now = float(np.average([one.value or 0.0 for one in known], weights=weights))
    return Alarm(
        group=chart.group,
        measure=chart.measure,
        span=span,
        before=chart.baseline.value or 0.0,
        now=now,
        p=p,
    )
