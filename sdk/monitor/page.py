"""The page of what is monitored: alarms first, then a chart a measure."""

from __future__ import annotations

from dataclasses import dataclass

from pathgene_rt.monitor.charts import ALL, LONG_WINDOWS, Chart, Monitoring
from pathgene_rt.options import Language
from pathgene_rt.pages.render import render

_WIDE, _HIGH, _LEFT, _TOP = 520.0, 84.0, 64.0, 10.0


@dataclass(frozen=True)
class Dot:
    """A window in the picture: its place, the ends of its quartiles, and what is said of it."""

    x: float
    y: float
    low: float
    high: float
    title: str
    alarms: bool


@dataclass(frozen=True)
class Picture:
    """A chart in user units: the baseline's value and quartiles as a band, then ``dots``."""

    chart: Chart
    measure: str
    head: str
    least: str
    most: str
    base: float
    band: tuple[float, float]
    dots: tuple[Dot, ...]


def monitor_page(found: Monitoring, language: Language = "en") -> str:
    """``found`` as one page that needs nothing else."""
    groups: dict[str, list[Picture]] = {}
    for chart in found.charts:
        groups.setdefault(chart.group, []).append(_picture(chart, found.limit))
    return render(
        "monitor.html.j2",
        found=found,
        created=found.created,
        language=language,
        groups=groups,
        everything=ALL,
        lasting=LONG_WINDOWS,
        parts={alarm.measure: split_measure(alarm.measure) for alarm in found.alarms},
        shown=_shown,
    )


def split_measure(measure: str) -> tuple[str, str]:
    """(the measure's name, its head; "" for none)."""
    name, _, head = measure.partition(" ")
    return name, head


def _shown(value: float) -> str:
    return f"{value:.3g}"


def _picture(chart: Chart, limit: float) -> Picture:
    known = [one for one in (chart.baseline, *chart.windows) if one.value is not None]
    ends = [value for one in known for value in (one.value, one.low, one.high) if value is not None]
    least, most = min(0.0, *ends), max(ends)
    if most <= least:
        most = least + 1

    def y(value: float) -> float:
        return round(_TOP + _HIGH * (1 - (value - least) / (most - least)), 1)

    step = _WIDE / max(1, len(chart.windows))
    dots = []
    for number, one in enumerate(chart.windows):
        if one.value is None:
            continue
        low, high = one.low, one.high
        dots.append(
            Dot(
                x=round(_LEFT + step * (number + 0.5), 1),
                y=y(one.value),
                low=y(one.value if low is None else low),
                high=y(one.value if high is None else high),
                title=f"{one.begin[:10]} – {one.end[:10]}: {_shown(one.value)}",
                alarms=any(p is not None and p <= limit for p in (one.p, one.p_lasting)),
            )
        )
    base = chart.baseline
    value = base.value or 0.0
    measure, head = split_measure(chart.measure)
    return Picture(
        chart=chart,
        measure=measure,
        head=head,
        least=_shown(least),
        most=_shown(most),
        base=y(value),
        band=(
            y(value if base.high is None else base.high),
            y(value if base.low is None else base.low),
        ),
        dots=tuple(dots),
    )
