"""Attention drawn over a slide's overview, with everything needed to read the picture.

Inside tiles the tissue is shown in grey under the colour, so that the stain does not mix with the
colour scale; outside it keeps its own colours. Drawn with Pillow and numpy alone.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathgene_rt.geometry import BoolArray, Float32Array, Int32Array, UInt8Array
from pathgene_rt.report.typefaces import Typeface, typeface

LONG_SIDE_PX = (900, 1600)
"""Overviews are drawn with their longer side in this range."""

_MARGIN = 36
_MIN_WIDTH = 900
_BAR_WIDTH, _BAR_ROOM = 26, 150
_INK, _FAINT, _LINE = (24, 24, 28), (92, 92, 100), (150, 150, 156)
_SIZES = {"title": 30, "text": 21, "small": 17}
_UNDRAWN = "(in letters that this machine has no typeface for; see report.html)"
_WORDS = re.compile("[\u2e80-\uffef]|[^\\s\u2e80-\uffef]+")
"""What may stand at the end of a line: each of the characters that are written without spaces."""

_COLOUR_SHARE = (0.52, 0.72)
"""How much of a pixel is colour, from the lowest to the highest rank: what a head ignored stays
readable as tissue."""


@dataclass(frozen=True)
class HeatmapText:
    """What stands around the picture: ``title`` and ``subtitle`` above, below it the ``notice`` of
    intended use and, smaller, the ``footer`` that explains the colours.
    """

    title: str
    subtitle: str
    notice: str
    footer: str


def draw_heatmap(
    overview: UInt8Array,
    size_px: tuple[int, int],
    mpp: float | None,
    xy: Int32Array,
    span_px: float,
    ranks: Float32Array,
    text: HeatmapText,
) -> Image.Image:
    """Colour each tile of the slide by its percentile rank.

    ``overview`` uint8 [h, w, 3] shows the whole slide of ``size_px`` (w, h) level-0 pixels of
    ``mpp`` um (None: no scale bar). Tiles are at ``xy`` int32 [N, 2], ``span_px`` level-0 pixels
    wide; ``ranks`` float32 [N] in 0..100. Where tiles overlap the higher rank is on top. Raises
    ValueError if a rank is not in that range (NaN included).
    """
    if ranks.shape != (len(xy),) or not ((ranks >= 0) & (ranks <= 100)).all():
        raise ValueError("ranks must be one number of 0..100 a tile")
    photo = _fitted(overview)
    ranked, covered = _rank_image(photo.size, size_px, xy, span_px, ranks)
    picture = _blended(np.asarray(photo), ranked, covered)
    um_per_px = mpp * size_px[0] / photo.width if mpp is not None else None
    return _composed(Image.fromarray(picture), um_per_px, text)


@cache
def colour_table() -> UInt8Array:
    """256 colours uint8 [256, 3] from deep blue over green to yellow.

    Lightness rises linearly in Oklab (Ottosson 2020), so equal steps in rank look equally large,
    also to colour-blind readers and in grey print; the hues are none of H&E's.
    """
    at = np.linspace(0.0, 1.0, 256)
    lightness = 0.34 + 0.58 * at
    hue = np.radians(np.interp(at, [0.0, 0.35, 0.7, 1.0], [285.0, 215.0, 150.0, 104.0]))
    chroma = np.interp(at, [0.0, 0.35, 0.7, 1.0], [0.16, 0.09, 0.15, 0.19])
    oklab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    cone = oklab @ np.array(
        [[1, 1, 1], [0.3963378, -0.1055613, -0.0894842], [0.2158038, -0.0638542, -1.2914855]]
    )
    linear = cone**3 @ np.array(
        [
            [4.0767417, -1.2684380, -0.0041961],
            [-3.3077116, 2.6097574, -0.7034186],
            [0.2309699, -0.3413194, 1.7076147],
        ]
    )
    linear = np.clip(linear, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: UInt8Array = np.rint(255 * srgb).astype(np.uint8)
    return table


def scale_bar_um(available_um: float) -> float:
    """The longest of 1, 2, 5 times a power of ten that is not longer than ``available_um``."""
    power = 10.0 ** math.floor(math.log10(available_um))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= available_um * 1.0001)


def _fitted(overview: UInt8Array) -> Image.Image:
    photo = Image.fromarray(overview)
    longest = max(photo.size)
    wanted = min(max(longest, LONG_SIDE_PX[0]), LONG_SIDE_PX[1])
    if wanted == longest:
        return photo
    size = (
        max(1, round(photo.width * wanted / longest)),
        max(1, round(photo.height * wanted / longest)),
    )
    return photo.resize(size, Image.Resampling.LANCZOS)


def _rank_image(
    shown_px: tuple[int, int],
    size_px: tuple[int, int],
    xy: Int32Array,
    span_px: float,
    ranks: Float32Array,
) -> tuple[Float32Array, BoolArray]:
    """Ranks float32 [h, w] of the shown pixels, and which of them a tile covers."""
    ranked = np.zeros((shown_px[1], shown_px[0]), dtype=np.float32)
    covered = np.zeros(ranked.shape, dtype=np.bool_)
    scale = np.array(shown_px) / np.array(size_px)
    first = np.floor(xy * scale + 0.5).astype(np.int64)
    last = np.maximum(np.floor((xy + span_px) * scale + 0.5).astype(np.int64), first + 1)
    first, last = np.maximum(first, 0), np.maximum(last, 0)
    for tile in np.argsort(ranks, kind="stable"):
        (left, top), (right, bottom) = first[tile], last[tile]
        ranked[top:bottom, left:right] = ranks[tile]
        covered[top:bottom, left:right] = True
    return ranked, covered


def _blended(photo: UInt8Array, ranked: Float32Array, covered: BoolArray) -> UInt8Array:
    picture = photo.copy()
    grey = np.asarray(Image.fromarray(photo).convert("L"))[covered]
    picture[covered] = _coloured(grey, ranked[covered])
    return picture


def _coloured(grey: NDArray[np.uint8], ranks: Float32Array) -> UInt8Array:
    """Colours uint8 [M, 3] of pixels with luminance ``grey`` [M] and ``ranks`` [M]."""
    colour = colour_table()[np.rint(ranks * 2.55).astype(np.intp)].astype(np.float32)
    low, high = _COLOUR_SHARE
    share = (low + (high - low) * ranks / 100)[:, None]
    mixed: UInt8Array = np.rint(share * colour + (1 - share) * grey[:, None]).astype(np.uint8)
    return mixed


def _composed(picture: Image.Image, um_per_px: float | None, text: HeatmapText) -> Image.Image:
    """The picture with text above and below, the colour bar beside and the scale bar under it."""
    width = max(_MIN_WIDTH, picture.width + 2 * _MARGIN + _BAR_ROOM)
    room = width - 2 * _MARGIN
    title, subtitle = (
        _shortened(_drawn(line, use), room)
        for line, use in ((text.title, "title"), (text.subtitle, "text"))
    )
    notice, footer = (
        _wrapped(_drawn(words, use), room)
        for words, use in ((text.notice, "text"), (text.footer, "small"))
    )
    top = _MARGIN + 96
    below = top + picture.height + 18
    words = below + 66
    height = words + 30 * len(notice) + 25 * len(footer) + _MARGIN - 4
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 8), title.text, _INK, title.face)
    draw.text((_MARGIN, _MARGIN + 38), subtitle.text, _INK, subtitle.face)
    left = _MARGIN + (room - _BAR_ROOM - picture.width) // 2
    page.paste(picture, (left, top))
    frame = (left - 1, top - 1, left + picture.width, top + picture.height)
    draw.rectangle(frame, outline=_LINE)
    _draw_colour_bar(page, draw, left + picture.width + 28, top, picture.height)
    if um_per_px is not None:
        _draw_scale_bar(draw, left, below, picture.width, um_per_px)
    for number, line in enumerate(notice):
        draw.text((_MARGIN, words + 30 * number), line.text, _INK, line.face)
    words += 30 * len(notice) + 4
    for number, line in enumerate(footer):
        draw.text((_MARGIN, words + 25 * number), line.text, _FAINT, line.face)
    return page


def _draw_colour_bar(
    page: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, picture_height: int
) -> None:
    """Colours as they look over tissue of middling lightness, with ranks written beside."""
    head = 62
    height = min(420, max(60, picture_height - head))
    ranks = np.linspace(100, 0, height, dtype=np.float32)
    colours = _coloured(np.full(height, 190, dtype=np.uint8), ranks)
    bar = np.repeat(colours[:, None], _BAR_WIDTH, axis=1)
    small = _drawn("", "small").face
    draw.text((left, top - 4), "attention,", _INK, small)
    draw.text((left, top + 16), "percentile", _INK, small)
    page.paste(Image.fromarray(bar), (left, top + head))
    outline = (left - 1, top + head - 1, left + _BAR_WIDTH, top + head + height)
    draw.rectangle(outline, outline=_LINE)
    ticks = ((100, "100 high"), (75, "75"), (50, "50"), (25, "25"), (0, "0 low"))
    for rank, label in ticks if height >= 120 else (ticks[0], ticks[-1]):
        y = top + head + round((100 - rank) / 100 * (height - 1))
        right = left + _BAR_WIDTH
        draw.line((right, y, right + 6, y), _INK)
        draw.text((right + 12, y), label, _INK, small, anchor="lm")


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, left: int, top: int, picture_width: int, um_per_px: float
) -> None:
    length_um = scale_bar_um(picture_width * um_per_px / 4)
    right = left + length_um / um_per_px
    draw.rectangle((left, top + 4, right, top + 9), fill=_INK)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
    draw.text((left, top + 16), label, _INK, _drawn(label, "text").face)


class _Text(NamedTuple):
    """A line, and the typeface that it is drawn in."""

    text: str
    face: Typeface

    @property
    def width(self) -> float:
        return self.face.getlength(self.text)


def _drawn(text: str, use: str) -> _Text:
    """``text`` as it can be drawn here, which may be that it cannot."""
    text = unicodedata.normalize("NFC", text)
    face = typeface(text, _SIZES[use])
    if face is None:
        return _drawn(_UNDRAWN, use)
    return _Text(text, face)


def _shortened(line: _Text, room: int) -> _Text:
    """``line``, its middle left out if it is wider than ``room`` pixels."""
    if line.width <= room:
        return line
    for keep in range(len(line.text) // 2, 0, -1):
        shorter = line._replace(text=f"{line.text[:keep]}...{line.text[-keep:]}")
        if shorter.width <= room:
            return shorter
    return line._replace(text="")


def _wrapped(text: _Text, room: int) -> list[_Text]:
    """``text`` broken between words, or characters that are written without spaces, into lines of
    at most ``room`` pixels."""
    lines: list[_Text] = []
    for found in _WORDS.finditer(text.text):
        word = text._replace(text=found.group())
        space = " " if found.start() and text.text[found.start() - 1].isspace() else ""
        longer = word._replace(text=f"{lines[-1].text if lines else ''}{space}{word.text}")
        if lines and longer.width <= room:
            lines[-1] = longer
        else:
            lines.append(_shortened(word, room))
    return lines
