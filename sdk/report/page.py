"""``report.html``: one file that needs nothing else, to read on any screen and to print.

Made of the document of ``report.json`` and of pictures, so that it can be made again from a folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathgene_rt.pages.render import render
from pathgene_rt.report.heatmap import colour_table, scale_bar_um
from pathgene_rt.report.page_pictures import PagePictures
from pathgene_rt.report.shown_call import Text, cut_offs, is_withheld, marks, reasons


@dataclass(frozen=True, kw_only=True)
class TileFigure:
    """A tile of the gallery, its place on the slide's picture in shares 0..1 of its sides."""

    anchor: str
    picture: str | None
    xy: tuple[int, int]
    alone: float
    left: float
    top: float


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """A layer of attention of ``head``, for the class ``about`` ("": for none in particular)."""

    anchor: str
    head: str
    about: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class HeadSection:
    """What the page shows of one head: ``stated`` is the class whose probability stands on the
    scale, the one that a threshold is on; ``about`` that which tiles and map are about."""

    anchor: str
    prediction: Mapping[str, Any]
    stated: str
    probability: float
    interval: tuple[float, float] | None
    about: str
    maps: tuple[AttentionMap, ...]
    tiles_for: tuple[TileFigure, ...]
    tiles_against: tuple[TileFigure, ...]
    evidence: Mapping[str, Any] | None

    @property
    def shown_map(self) -> AttentionMap:
        """The map to begin with."""
        return next((one for one in self.maps if one.about == self.about), self.maps[0])

    @property
    def marks(self) -> tuple[float, ...]:
        return marks(self.prediction)

    @property
    def withheld(self) -> bool:
        return is_withheld(self.prediction)

    @property
    def reasons(self) -> tuple[Text, ...]:
        return reasons(self.prediction)

    @property
    def cut_offs(self) -> tuple[Text, ...]:
        return cut_offs(self.prediction)

    @property
    def plain(self) -> str:
        """The key of the paragraph in plain words: it depends on what is predicted."""
        kind = str(self.prediction["task"])
        known = kind in ("mutation", "subtype", "exon", "tmb")
        gene = "" if self.prediction["gene"] else "_no_gene"
        return (
            f"report.plain_{kind}{gene if kind == 'mutation' else ''}"
            if known
            else ("report.plain_other")
        )


def report_page(
    document: Mapping[str, Any],
    *,
    pictures: PagePictures | None = None,
    language: str = "en",
    paper: bool = False,
) -> str:
    """The page for ``document``, that of :meth:`~pathgene_rt.report.report.Report.to_dict`.

    It opens in ``language`` ("en" or "zh") and holds both; figures only without ``pictures``. For
    ``paper`` there is nothing to choose or unfold: it has everything at once.
    """
    provenance = document["provenance"]
    tile_um = provenance["tiles"]["tile_px"] * provenance["tiles"]["mpp"]
    bar_um = scale_bar_um(tile_um / 2)
    heads = [
        _section(number, prediction, document, pictures)
        for number, prediction in enumerate(document["predictions"], 1)
    ]
    return render(
        "report.html.j2",
        document=document,
        created=document["created"],
        provenance=provenance,
        heads=heads,
        mapped=[head for head in heads if head.maps],
        paper=paper,
        pictures=pictures,
        language=language,
        tile_um=tile_um,
        bar_um=bar_um,
        bar_share=bar_um / tile_um,
        slide_bar=_slide_bar(provenance["slide"]["mpp"], pictures),
        gradient=_gradient(),
        quality=_quality(document["quality"]),
    )


def stated_class(probabilities: Sequence[float], called: Sequence[int]) -> int:
    """The class whose probability is shown: of two the last, which a threshold is on, of more the
    likeliest of those ``called``."""
    return 1 if len(probabilities) == 2 else _likeliest(probabilities, called)


def _likeliest(probabilities: Sequence[float], called: Sequence[int]) -> int:
    """Of the classes ``called``, or of all if none was."""
    return max(called or range(len(probabilities)), key=lambda place: probabilities[place])


def _section(
    number: int,
    prediction: Mapping[str, Any],
    document: Mapping[str, Any],
    pictures: PagePictures | None,
) -> HeadSection:
    name, classes = prediction["head"], prediction["classes"]
    evidence = document.get("evidence", {}).get(name)
    likeliest = _likeliest(prediction["probabilities"], prediction["called"])
    stated = stated_class(prediction["probabilities"], prediction["called"])
    interval = prediction["interval"]
    anchor = f"head{number}"
    figures = _tiles(anchor, evidence, name, pictures)
    count_for = len(evidence["tiles_for"]) if evidence else 0
    return HeadSection(
        anchor=anchor,
        prediction=prediction,
        stated=classes[stated],
        probability=prediction["probabilities"][stated],
        interval=tuple(interval[stated]) if interval else None,
        about=classes[evidence["class"] if evidence else likeliest],
        maps=_maps(anchor, name, pictures),
        tiles_for=figures[:count_for],
        tiles_against=figures[count_for:],
        evidence=evidence,
    )


def _maps(anchor: str, name: str, pictures: PagePictures | None) -> tuple[AttentionMap, ...]:
    layers = pictures.layers.get(name, ()) if pictures else ()
    return tuple(
        AttentionMap(
            anchor=f"{anchor}-map{number}", head=name, about=layer.about, picture=layer.picture
        )
        for number, layer in enumerate(layers, 1)
    )


def _tiles(
    anchor: str, evidence: Mapping[str, Any] | None, name: str, pictures: PagePictures | None
) -> tuple[TileFigure, ...]:
    if evidence is None or pictures is None:
        return ()
    tiles = [*evidence["tiles_for"], *evidence["tiles_against"]]
    shown = pictures.tiles.get(name) or (None,) * len(tiles)
    width, height = pictures.size_px
    return tuple(
        TileFigure(
            anchor=f"{anchor}-tile{number}",
            picture=picture,
            xy=(tile["xy"][0], tile["xy"][1]),
            alone=tile["probability_alone"],
            left=tile["xy"][0] / width,
            top=tile["xy"][1] / height,
        )
        for number, (tile, picture) in enumerate(zip(tiles, shown, strict=True), 1)
    )


def _slide_bar(mpp: float, pictures: PagePictures | None) -> tuple[float, float] | None:
    """(micrometres, share of the picture's width) of the scale bar on the slide's picture."""
    if pictures is None:
        return None
    wide_um = pictures.size_px[0] * mpp
    bar_um = scale_bar_um(wide_um / 4)
    return bar_um, bar_um / wide_um


def _gradient() -> str:
    """The colours of attention as a CSS gradient."""
    stops = colour_table()[:: 255 // 15]
    return ", ".join(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in stops.tolist())


_UNITS = {"_mm2": "area_mm2", "_share": "percent", "mpp": "per_pixel"}


def _quality(quality: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    """(name, key of the text with the unit, number) of each figure, in the report's order."""
    rows = []
    for name, value in quality.items():
        unit = next((key for ending, key in _UNITS.items() if name.endswith(ending)), "plain")
        if value is None:
            rows.append((name, "common.unknown", ""))
            continue
        rows.append((name, f"common.{unit}", _figure(value * 100 if unit == "percent" else value)))
    return rows


def _figure(value: float) -> str:
    """``value`` with three digits that count, large ones whole."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
