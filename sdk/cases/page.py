"""``report.html`` of a case: each head's two answers, and its slides with links to their pages.

Made of the document of ``case.json`` and of what the slides' folders hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pathgene_rt.options import Language
from pathgene_rt.pages.render import render
from pathgene_rt.report.page import stated_class
from pathgene_rt.report.page_files import HTML_FILE
from pathgene_rt.report.page_pictures import thumbnail_of
from pathgene_rt.report.shown_call import Text, cut_offs, is_withheld, marks, reasons


@dataclass(frozen=True, kw_only=True)
class CaseAnswer:
    """A call, and the probability of the class that is stated."""

    call: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class CaseHead:
    """What the page shows of one head: ``stated`` is the class whose probability is shown,
    ``of_slides`` that of each slide alone. ``reasons`` are those of the pooled bag's call."""

    anchor: str
    prediction: Mapping[str, Any]
    stated: str
    pooled: CaseAnswer
    mean: CaseAnswer
    agree: bool
    of_slides: tuple[float, ...]
    marks: tuple[float, ...]
    withheld: bool
    reasons: tuple[Text, ...]
    cut_offs: tuple[Text, ...]


@dataclass(frozen=True, kw_only=True)
class CasePageSlide:
    """A slide of the case: ``page`` is the address of its own page, ``picture`` a small one of it
    as a ``data:`` address; None where there is none."""

    name: str
    tiles: int
    page: str | None = None
    picture: str | None = None


def case_page(
    document: Mapping[str, Any], slides: Sequence[CasePageSlide] = (), language: Language = "en"
) -> str:
    """The page for ``document``, that of :meth:`~pathgene_rt.cases.report.CaseReport.to_dict`.

    ``slides`` are its slides, in its order, as :func:`page_slides` finds them; without them the
    page has no pictures and no links. It opens in ``language`` and holds both.
    """
    named = [CasePageSlide(name=one["slide"], tiles=one["tiles"]) for one in document["slides"]]
    encoders = {one["encoder"] for one in document["slides"] if one["encoder"] is not None}
    return render(
        "case.html.j2",
        document=document,
        created=document["created"],
        heads=[_head(number, one) for number, one in enumerate(document["predictions"], 1)],
        slides=slides or named,
        encoders=sorted(encoders),
        language=language,
    )


def page_slides(
    document: Mapping[str, Any], folders: Sequence[Path], case_folder: Path
) -> list[CasePageSlide]:
    """The slides of ``document``, whose results lie in ``folders``; links are from
    ``case_folder``."""
    found = []
    for slide, folder in zip(document["slides"], folders, strict=True):
        page = folder / HTML_FILE
        there = page.is_file()
        address = Path(os.path.relpath(page, case_folder)).as_posix()
        found.append(
            CasePageSlide(
                name=slide["slide"],
                tiles=slide["tiles"],
                page=quote(address) if there else None,
                picture=thumbnail_of(page) if there else None,
            )
        )
    return found


def _head(number: int, prediction: Mapping[str, Any]) -> CaseHead:
    pooled, mean = prediction["pooled_bag"], prediction["mean_of_slides"]
    classes = prediction["classes"]
    stated = stated_class(pooled["probabilities"], pooled["called"])
    return CaseHead(
        anchor=f"head{number}",
        prediction=prediction,
        stated=classes[stated],
        pooled=CaseAnswer(call=pooled["call"], probability=pooled["probabilities"][stated]),
        mean=CaseAnswer(call=mean["call"], probability=mean["probabilities"][stated]),
        agree=pooled["call"] == mean["call"],
        of_slides=tuple(one[stated] for one in mean["slides"].values()),
        marks=marks(prediction),
        withheld=is_withheld(pooled),
        reasons=reasons(pooled),
        cut_offs=cut_offs(prediction),
    )
