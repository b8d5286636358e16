"""A leaderboard's picture: a row a head, the best first, a part a task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from pathgene_rt.training.protocol.cross_validation import TrainedHead
from pathgene_rt.training.protocol.figures import axis_start, figure, folds_of, interval

_SCALE = 2
"""Drawn larger and reduced, because Pillow's dots and lines have no soft edges."""
_WIDTH, _ROW, _TOP, _BELOW, _MARGIN = 1160, 38, 118, 96, 32
_NAMES, _PLOT, _FIGURE, _SIZE = 32, (220, 760), 785, 1010
_INK, _FAINT, _LINE, _GRID = (24, 24, 28), (92, 92, 100), (150, 150, 156), (226, 226, 230)
_DOT, _FOLD, _EXTERNAL = (0, 84, 147), (150, 186, 214), (190, 90, 0)
_SIZES = {"title": 24, "text": 16, "small": 13}
_LONGEST = 26
"""Letters of an encoder's name that have room."""


def draw_leaderboard(boards: Sequence[tuple[str, Sequence[TrainedHead]]]) -> Image.Image:
    """The ``boards`` (title, heads) below each other."""
    parts = [_draw_board(title, heads) for title, heads in boards]
    whole = Image.new("RGB", (_WIDTH, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _draw_board(title: str, heads: Sequence[TrainedHead]) -> Image.Image:
    """One row a head: AUROC with its 95 % interval, single folds and the external cohort beside,
    parameters and wall time."""
    height = _TOP + _ROW * len(heads) + _BELOW
    page = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), "white")
    drawing = _Drawing(page, lowest=axis_start(heads))
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
    low, high = interval(head)
    if head.encoder is None:
        drawing.text((_NAMES, y), head.architecture, "text", anchor="lm")
    else:
        name = head.encoder
        shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
        drawing.text((_NAMES, y - 8), head.architecture, "text", anchor="lm")
        drawing.text((_NAMES, y + 10), shown, "small", _FAINT, anchor="lm")
    for value in folds_of(head):
        drawing.dot(drawing.x(value), y + 9, 2.5, _FOLD)
    drawing.line((drawing.x(low), y, drawing.x(high), y), _DOT, 2)
    for bound in (low, high):
        drawing.line((drawing.x(bound), y - 4, drawing.x(bound), y + 4), _DOT, 2)
    drawing.dot(drawing.x(figure(head, "auroc")), y, 5.5, _DOT)
    if "external_auroc" in head.metrics:
        drawing.diamond(drawing.x(figure(head, "external_auroc")), y - 9, 4.5, _EXTERNAL)
    area = f"{figure(head, 'auroc'):.3f} ({low:.3f} to {high:.3f})"
    drawing.text((_FIGURE, y), area, "text", anchor="lm")
    size = f"{_short(head.parameters)}, {head.seconds:.0f} s"
    drawing.text((_SIZE, y), size, "text", anchor="lm")


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
