"""Two bundles on the same slides of a site, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.bundle.zones import can_have_zones
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.agreement import Agreement, Discordance, agreement, discordance
from pathgene_rt.evaluation.delong import areas
from pathgene_rt.report.report import BundleIdentity, utc_now, without_nan
from pathgene_rt.site.cases import SiteCase
from pathgene_rt.site.figures import Text

COMPARISON_FILE, COMPARISON_PAGE = "comparison.json", "comparison.html"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ClassComparison:
    """AUROC of a class by both bundles, the ``difference`` of the first less the second with its
    95 % ``interval``, and DeLong's two-sided ``p``."""

    name: str
    positive: int
    negative: int
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A case that the bundles call differently. ``slides`` are (id, link to the first bundle's
    heatmap, or to its page where the head has none, and to the second's), relative to the page and
    empty where there is none; ``probabilities`` those of the
    last class, None where no answer is given."""

    case_id: str
    truth: str
    first: str
    second: str
    probabilities: tuple[float | None, float | None]
    slides: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class HeadComparison:
    """Of a head that both bundles have, over cases that both answered. ``right`` is McNemar's table
    of calls that are right; an indeterminate one is not."""

    head: str
    gene: str | None
    cases: int
    left_out: int
    calls: Agreement | None
    right: Discordance | None
    classes: tuple[ClassComparison, ...]
    disagreements: tuple[Disagreement, ...]
    notes: tuple[Text, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"notes": [key for key, _ in self.notes]}


@dataclass(frozen=True, kw_only=True)
class SiteComparison:
    """The document is ``comparison.json``."""

    first: BundleIdentity
    second: BundleIdentity
    labels: str
    heads: tuple[HeadComparison, ...]
    intended_use: str
    notes: tuple[str, ...] = ()
    created: str = field(default_factory=utc_now)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = without_nan(
            {**asdict(self), "heads": [head.to_dict() for head in self.heads]}
        )
        return document


def shared_heads(first: Bundle, second: Bundle) -> tuple[HeadSpec, ...]:
    """The first bundle's heads that the second has with the same classes, by name. Raises
    UsageError if there is none."""
    others = {head.name: head.model.classes for head in second.heads}
    found = tuple(head for head in first.heads if others.get(head.name) == head.model.classes)
    if not found:
        raise UsageError(
            f"{first.manifest.name} and {second.manifest.name} have no head of the same name and "
            "classes; there is nothing to compare"
        )
    return found


def compare_heads(
    head: HeadSpec,
    first: Sequence[SiteCase],
    second: Sequence[SiteCase],
    heatmaps: tuple[str, str],
) -> HeadComparison:
    """``head`` on the same cases in the same order, by both bundles. ``heatmaps`` are the folders
    of both predictions, relative to the page."""
    known = [pair for pair in zip(first, second, strict=True) if head.name in pair[0].truth]
    both = [
        (one, two)
        for one, two in known
        if not any(case.failed or case.reasons.get(head.name) for case in (one, two))
    ]
    notes: list[Text] = []
    if not both:
        notes.append(("site.none_answered", {}))
    return HeadComparison(
        head=head.name,
        gene=head.task.gene,
        cases=len(both),
        left_out=len(known) - len(both),
        calls=None
        if not both
        else agreement(
            [one.call(head.name) for one, _ in both], [two.call(head.name) for _, two in both]
        ),
        right=None
        if not both
        else discordance(
            [_is_right(head, one) for one, _ in both], [_is_right(head, two) for _, two in both]
        ),
        classes=tuple(_classes(head, both)),
        disagreements=tuple(
            _disagreement(head, one, two, heatmaps)
            for one, two in known
            if one.call(head.name) != two.call(head.name)
        ),
        notes=tuple(notes),
    )


def _is_right(head: HeadSpec, case: SiteCase) -> bool:
    prediction = case.predictions[head.name]
    truth = case.truth[head.name]
    decision = prediction.decision
    if decision is not None:
        positive = head.model.classes[-1] in truth
        return decision.call == ("positive" if positive else "negative")
    return {prediction.classes[place] for place in prediction.called} == set(truth)


def _classes(head: HeadSpec, both: Sequence[tuple[SiteCase, SiteCase]]) -> list[ClassComparison]:
    names = head.model.classes
    binary = can_have_zones(len(names), head.model.activation)
    found = []
    for place, name in enumerate(names):
        truth = np.array([name in one.truth[head.name] for one, _ in both], dtype=np.bool_)
        if (binary and place < len(names) - 1) or truth.all() or not truth.any():
            continue
        scores = np.array(
            [[case.predictions[head.name].probabilities[place] for case in pair] for pair in both]
        ).T
        area = areas(truth, scores)
        difference, low, high, p = area.difference()
        found.append(
            ClassComparison(
                name=name,
                positive=int(truth.sum()),
                negative=int((~truth).sum()),
                first=float(area.values[0]),
                second=float(area.values[1]),
                difference=difference,
                interval=(low, high),
                p=p,
            )
        )
    return found


def _shown(head: HeadSpec, case: SiteCase) -> float | None:
    """The probability of the last class; None where no answer is given."""
    if case.failed or case.reasons.get(head.name):
        return None
    return case.predictions[head.name].probabilities[-1]


def _disagreement(
    head: HeadSpec, one: SiteCase, two: SiteCase, heatmaps: tuple[str, str]
) -> Disagreement:
    probabilities = (_shown(head, one), _shown(head, two))
    first, second = ({slide.slide_id: slide for slide in case.slides} for case in (one, two))
    slides = []
    for slide_id in first.keys() | second.keys():
        links = []
        for slides_of, folder in ((first, heatmaps[0]), (second, heatmaps[1])):
            slide = slides_of.get(slide_id)
            files = {} if slide is None else slide.document["files"]
            name = files.get(f"heatmap {head.name}") or files.get("html", "")
            links.append(quote(f"{folder}/{slide_id}/{name}") if name else "")
        slides.append((slide_id, links[0], links[1]))
    truth = ", ".join(name for name in head.model.classes if name in one.truth[head.name])
    return Disagreement(
        case_id=one.case_id,
        truth=truth or "none",
        first=one.call(head.name),
        second=two.call(head.name),
        probabilities=probabilities,
        slides=tuple(sorted(slides)),
    )
