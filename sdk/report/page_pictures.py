"""The pictures of ``report.html``, inside the page as data: the slide, the attention of each head
over it, and single tiles."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array, Int64Array, UInt8Array
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.attention import class_attention, percentile_ranks
from pathgene_rt.report.heatmap import colour_table

_SLIDE_PX = 1400
_TILE_PX = 192
_THUMBNAIL_PX = 320
MOST_CELLS = 2_000_000
"""Of all layers of a page: so many bytes at most, and the page is under 5 MB."""

_SLIDE = re.compile(rb'<img id="slide" src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"')
"""How report.html.j2 shows what :func:`slide_picture` gives."""


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """Attention of a head over the slide: ``picture`` has a pixel a cell of the grid, transparent
    where there is no tile. ``about`` is the class that it is for, "" if for none."""

    about: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class PagePictures:
    """Pictures as ``data:`` addresses. ``slide`` shows the whole slide of ``size_px`` (w, h)
    level-0 pixels on ``shown_px``; ``layers`` lie on it from its corner on, ``layer_px`` (w, h)
    level-0 pixels wide and high. ``tiles`` by head are those for its call, then those against it,
    None where a tile's pixels are not at hand.
    """

    slide: str
    size_px: tuple[int, int]
    shown_px: tuple[int, int]
    layer_px: tuple[float, float]
    layers: Mapping[str, tuple[AttentionLayer, ...]]
    tiles: Mapping[str, tuple[str | None, ...]]


def slide_picture(overview: UInt8Array) -> tuple[str, tuple[int, int]]:
    """``overview`` uint8 [h, w, 3] as JPEG of at most _SLIDE_PX a side, and its (w, h)."""
    image = Image.fromarray(overview)
    image.thumbnail((_SLIDE_PX, _SLIDE_PX), Image.Resampling.LANCZOS)
    return _address(image, "JPEG", quality=82), image.size


def thumbnail_of(page: Path) -> str | None:
    """The slide's picture in its ``report.html`` as a small JPEG; None if the page has none."""
    found = _SLIDE.search(page.read_bytes())
    if found is None:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(found.group(1))))
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return _address(image, "JPEG", quality=80)


def tile_picture(rgb: UInt8Array) -> str:
    """A tile uint8 [p, p, 3] as JPEG."""
    image = Image.fromarray(rgb)
    image.thumbnail((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
    return _address(image, "JPEG", quality=80)


def attention_layers(
    bag: FeatureBag,
    prediction: Prediction,
    attention: Float32Array,
    most_cells: int = MOST_CELLS,
) -> tuple[AttentionLayer, ...]:
    """Percentile ranks of ``attention`` float32 [N, k]: one layer a class where the head has a
    branch for each, else one of the mean of its branches; each of at most ``most_cells`` cells."""
    by_class = class_attention(attention, prediction)
    columns = by_class or {"": attention.mean(axis=1, dtype=np.float32)}
    return tuple(
        AttentionLayer(about=about, picture=_layer(bag, percentile_ranks(values), most_cells))
        for about, values in columns.items()
    )


def layer_size_px(bag: FeatureBag) -> tuple[float, float]:
    """How many level-0 pixels (w, h) the layers of ``bag`` cover."""
    columns, rows = _cells(bag).max(axis=0) + 1
    return float(columns * bag.span_px), float(rows * bag.span_px)


def _cells(bag: FeatureBag) -> Int64Array:
    """(column, row) int64 [N, 2] of each tile on a grid of its span from (0, 0), also where tiles
    of other tools lie off it: half a tile at most."""
    cells: Int64Array = np.rint(bag.xy / bag.span_px).astype(np.int64)
    return cells


def _layer(bag: FeatureBag, ranks: Float32Array, most_cells: int) -> str:
    cells = _cells(bag)
    columns, rows = (cells.max(axis=0) + 1).tolist()
    coarser = max(1, int(np.ceil(np.sqrt(columns * rows / most_cells))))
    cells = cells // coarser
    width, height = -(-columns // coarser), -(-rows // coarser)
    shown = np.zeros((height, width), dtype=np.uint8)
    order = np.argsort(ranks, kind="stable")  # of tiles in one cell the highest stays
    column, row = cells[order].T
    shown[row, column] = 1 + np.clip(np.rint(ranks[order] * 2.54), 0, 254)
    picture = Image.fromarray(shown)
    picture.putpalette(colour_table().tobytes())
    return _address(picture, "PNG", optimize=True, transparency=0)


def _address(image: Image.Image, kind: str, **options: int | bool) -> str:
    data = io.BytesIO()
    image.save(data, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
