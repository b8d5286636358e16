"""Methods compared on the same folds, the best first: a table, a page and a dot plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from pathgene_rt.evaluation.metrics import FIGURES
from pathgene_rt.files import atomic_path, write_bytes
from pathgene_rt.pages.render import render
from pathgene_rt.report.report import utc_now
from pathgene_rt.training.protocol.cross_validation import TrainedHead
from pathgene_rt.training.protocol.disclosure import centres_of, curve_of
from pathgene_rt.training.protocol.run_folder import LEADERBOARD, RunFolder

_SCALE = 2
"""Drawn larger and reduced, because Pillow's dots and lines have no soft edges."""
_WIDTH, _ROW, _TOP, _BELOW, _MARGIN = 1160, 38, 118, 96, 32
_NAMES, _PLOT, _FIGURE, _SIZE = 32, (220, 760), 785, 1010
_INK, _FAINT, _LINE, _GRID = (24, 24, 28), (92, 92, 100), (150, 150, 156), (226, 226, 230)
_DOT, _FOLD, _EXTERNAL = (0, 84, 147), (150, 186, 214), (190, 90, 0)
_SIZES = {"title": 24, "text": 16, "small": 13}


def write_leaderboard(folder: RunFolder, heads: Sequence[TrainedHead], task: str) -> None:
    """Write leaderboard.csv, .html and .png of ``heads``, which learned ``task``, by AUROC.

    Raises OutputError.
    """
    best_first = ranked(heads)
    write_bytes(folder.path / f"{LEADERBOARD}.csv", _table(best_first).encode())
    write_bytes(folder.path / f"{LEADERBOARD}.html", leaderboard_page(best_first, task).encode())
    title = f"{task}: {len(heads)} methods"
    with atomic_path(folder.path / f"{LEADERBOARD}.png") as temporary:
        draw_leaderboard(best_first, title).save(temporary, format="PNG")


def ranked(heads: Sequence[TrainedHead]) -> list[TrainedHead]:
    """``heads`` by AUROC, the best first."""
    return sorted(heads, key=lambda head: -_number(head, "auroc"))


def leaderboard_page(heads: Sequence[TrainedHead], task: str) -> str:
    """``heads``, in the order given, as one page that needs nothing else."""
    first = heads[0].metrics
    return render(
        "leaderboard.html.j2",
        task=task,
        created=utc_now(),
        language="en",
        folds=len(heads[0].folds),
        slides=first["slides"],
        cases=first["cases"],
        part=first["part"],
        lowest=_axis_start(heads),
        external="external_auroc" in first,
        figures=FIGURES,
        rows=[_row(head) for head in heads],
        leakage=first.get("leakage", ""),
        centres=_centres(heads),
        curves=[
            (head.architecture, curve, head.metrics["calibration_error"])
            for head, curve in ((head, curve_of(head.metrics)) for head in heads)
            if curve
        ],
        zones=[
            (head.architecture, head.task.zones.describe(), head.metrics)
            for head in heads
            if head.task.zones is not None
        ],
    )


def _centres(heads: Sequence[TrainedHead]) -> list[dict[str, object]]:
    """A row a centre: its slides and cases, and each head's AUROC there, None without both classes;
    the cases of all heads are the same."""
    found = [centres_of(head.metrics) for head in heads]
    return [
        {
            "name": name,
            "slides": int(own["slides"]),
            "cases": int(own["cases"]),
            "aurocs": [each.get(name, {}).get("auroc") for each in found],
        }
        for name, own in found[0].items()
    ]


def _row(head: TrainedHead) -> dict[str, object]:
    low, high = _interval(head)
    external = "external_auroc" in head.metrics
    return {
        "method": head.architecture,
        "auroc": _number(head, "auroc"),
        "low": low,
        "high": high,
        "folds": _folds(head),
        "external": _number(head, "external_auroc") if external else None,
        "figures": {name: _number(head, name) for name in FIGURES},
        "parameters": head.parameters,
        "seconds": head.seconds,
    }


def draw_leaderboard(heads: Sequence[TrainedHead], title: str) -> Image.Image:
    """One row a head: AUROC with its 95 % interval, single folds and the external cohort beside,
    parameters and wall time."""
    height = _TOP + _ROW * len(heads) + _BELOW
    page = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), "white")
    drawing = _Drawing(page, lowest=_axis_start(heads))
    drawing.text((_MARGIN, 24), title, "title")
    drawing.text((_MARGIN, 58), _subtitle(heads[0]), "text", _FAINT)
    bottom = _TOP + _ROW * len(heads)
    drawing.axis(_TOP, bottom)
    for place, column in ((_FIGURE, "AUROC (95 % interval)"), (_SIZE, "parameters, time")):
        drawing.text((place, _TOP - 26), column, "small", _FAINT)
    for number, head in enumerate(heads):
        _draw_head(drawing, head, _TOP + _ROW * number + _ROW // 2)
    drawing.text((_MARGIN, bottom + 52), _legend(heads), "small", _FAINT)
    return page.resize((_WIDTH, height), Image.Resampling.LANCZOS)


class _Drawing:
    """Draws at ``_SCALE``; AUROC from ``lowest`` to 1 lies along x between ``_PLOT``."""

    def __init__(self, page: Image.Image, lowest: float) -> None:
        self._draw = ImageDraw.Draw(page)
        self.lowest = lowest

    def x(self, value: float) -> float:
        left, right = _PLOT
        return left + (right - left) * (max(value, self.lowest) - self.lowest) / (1 - self.lowest)

    def text(
        self,
        place: tuple[float, float],
        text: str,
        use: str,
        colour: tuple[int, int, int] = _INK,
        anchor: str = "la",
    ) -> None:
        x, y = place
        self._draw.text((x * _SCALE, y * _SCALE), text, colour, _font(use), anchor=anchor)

    def line(
        self, box: tuple[float, float, float, float], colour: tuple[int, int, int], width: float = 1
    ) -> None:
        scaled = [value * _SCALE for value in box]
        self._draw.line(scaled, fill=colour, width=round(width * _SCALE))

    def dot(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        box = [(x - radius), (y - radius), (x + radius), (y + radius)]
        self._draw.ellipse([value * _SCALE for value in box], fill=colour)

    def diamond(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        corners = [(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)]
        self._draw.polygon([(a * _SCALE, b * _SCALE) for a, b in corners], fill=colour)

    def axis(self, top: float, bottom: float) -> None:
        for tenth in range(round(self.lowest * 10), 11):
            x = self.x(tenth / 10)
            self.line((x, top, x, bottom), _LINE if tenth == 5 else _GRID)
            self.text((x, bottom + 8), f"{tenth / 10:.1f}", "small", _FAINT, anchor="ma")
        self.text((sum(_PLOT) / 2, bottom + 28), "AUROC", "small", _FAINT, anchor="ma")


def _draw_head(drawing: _Drawing, head: TrainedHead, y: float) -> None:
    low, high = _interval(head)
    drawing.text((_NAMES, y), head.architecture, "text", anchor="lm")
    for value in _folds(head):
        drawing.dot(drawing.x(value), y + 9, 2.5, _FOLD)
    drawing.line((drawing.x(low), y, drawing.x(high), y), _DOT, 2)
    for bound in (low, high):
        drawing.line((drawing.x(bound), y - 4, drawing.x(bound), y + 4), _DOT, 2)
    drawing.dot(drawing.x(_number(head, "auroc")), y, 5.5, _DOT)
    if "external_auroc" in head.metrics:
        drawing.diamond(drawing.x(_number(head, "external_auroc")), y - 9, 4.5, _EXTERNAL)
    figure = f"{_number(head, 'auroc'):.3f} ({low:.3f} to {high:.3f})"
    drawing.text((_FIGURE, y), figure, "text", anchor="lm")
    size = f"{_short(head.parameters)}, {head.seconds:.0f} s"
    drawing.text((_SIZE, y), size, "text", anchor="lm")


def _axis_start(heads: Sequence[TrainedHead]) -> float:
    """A tenth below everything that is drawn, and at most 0.5, where chance is."""
    lows = [_interval(head)[0] for head in heads]
    for head in heads:
        lows += _folds(head)
    return min(0.5, math.floor(min(lows) * 10) / 10)


def _subtitle(head: TrainedHead) -> str:
    count = len(head.folds)
    split = f"{count}-fold cross-validation" if count > 1 else "one split"
    metrics = head.metrics
    return (
        f"{split}; {metrics['slides']} slides of {metrics['cases']} cases in the {metrics['part']}"
    )


def _legend(heads: Sequence[TrainedHead]) -> str:
    parts = ["Dot: all test slides together", "bar: 95 % bootstrap interval over cases"]
    if "auroc_folds" in heads[0].metrics:
        parts.append("small dots: single folds")
    if "external_auroc" in heads[0].metrics:
        parts.append("diamond: external cohort")
    return "; ".join([*parts, "line at 0.5: chance."])


def _table(heads: Sequence[TrainedHead]) -> str:
    external = [f"external_{name}" for name in FIGURES if "external_auroc" in heads[0].metrics]
    names = [*FIGURES, *external]
    figures = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "method", *figures, "part", "cases", "parameters", "seconds", "file"])
    for rank, head in enumerate(heads, 1):
        cells: list[object] = [rank, head.architecture]
        for name in names:
            values = (_number(head, name), *_interval(head, name))
            cells += [f"{value:.6f}" for value in values]
        cells += [head.metrics["part"], head.metrics["cases"], head.parameters]
        writer.writerow([*cells, f"{head.seconds:.1f}", head.file.name])
    return text.getvalue()


def _folds(head: TrainedHead) -> list[float]:
    """AUROC of each fold; empty where there was one split."""
    folds = head.metrics.get("auroc_folds")
    return folds if isinstance(folds, list) else []


def _number(head: TrainedHead, name: str) -> float:
    value = head.metrics[name]
    assert isinstance(value, float)
    return value


def _interval(head: TrainedHead, name: str = "auroc") -> tuple[float, float]:
    bounds = head.metrics[f"{name}_interval"]
    assert isinstance(bounds, list)
    low, high = bounds
    return low, high


def _short(count: int) -> str:
    """1,234,567 as "1.23 M"."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


@cache
def _font(use: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in typeface: no font file of the machine is needed."""
    return ImageFont.load_default(size=_SIZES[use] * _SCALE)
