"""Slides put together to cases, answered as ``predict --cases`` does by the mean of its slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.heads.agreement import NEEDS_ANOTHER, agreeing
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction, mean_prediction
from pathgene_rt.site.slides import KnownSlides, PredictedSlide, Truth

FAILED = "failed"


@dataclass(frozen=True, eq=False)
class SiteCase:
    """A case: its ``truth`` by head, what each head says of it, and why answers are withheld, codes
    by head. ``failed`` slides have no report: then no head says anything."""

    case_id: str
    truth: Mapping[str, Truth]
    slides: tuple[PredictedSlide, ...]
    predictions: Mapping[str, Prediction]
    reasons: Mapping[str, tuple[str, ...]]
    failed: tuple[str, ...] = ()

    def call(self, head: str) -> str:
        """As reports have it, or FAILED."""
        return FAILED if self.failed else self.predictions[head].call


def group_cases(
    known: KnownSlides, slides: Sequence[PredictedSlide], bundle: Bundle
) -> tuple[SiteCase, ...]:
    """The cases of ``known``, in its order. Of several scans of a glass the first one listed
    counts: the others say how answers repeat."""
    by_id = {slide.slide_id: slide for slide in slides}
    members: dict[str, list[str]] = {}
    truth: dict[str, dict[str, Truth]] = {}
    glasses: set[tuple[str, str]] = set()
    for row in known.rows:
        if row.glass and (row.case_id, row.glass) in glasses:
            continue
        glasses.add((row.case_id, row.glass or row.slide_id))
        members.setdefault(row.case_id, []).append(row.slide_id)
        truth.setdefault(row.case_id, {}).update(row.truth)
    return tuple(
        _case(case_id, truth[case_id], slide_ids, by_id, bundle)
        for case_id, slide_ids in members.items()
    )


def _case(
    case_id: str,
    truth: Mapping[str, Truth],
    slide_ids: Sequence[str],
    by_id: Mapping[str, PredictedSlide],
    bundle: Bundle,
) -> SiteCase:
    failed = tuple(slide_id for slide_id in slide_ids if slide_id not in by_id)
    slides = tuple(by_id[slide_id] for slide_id in slide_ids if slide_id in by_id)
    if failed:
        return SiteCase(case_id, truth, slides, {}, {}, failed)
    means, reasons = [], {}
    for head in bundle.heads:
        own = [slide.predictions[head.name] for slide in slides]
        codes = tuple(
            dict.fromkeys(
                code
                for slide in slides
                for code in slide.reasons.get(head.name, ())
                if code != NEEDS_ANOTHER  # the case's own answers decide that
            )
        )
        mean = mean_prediction(head, own)
        if codes:
            count = sum(bool(slide.reasons.get(head.name)) for slide in slides)
            mean = replace(
                mean, withheld=(Reason(code="slides_withheld", figures={"count": count}),)
            )
            reasons[head.name] = codes
        means.append(mean)
    found = {one.head: one for one in agreeing(bundle.manifest.panel, means)}
    for name, one in found.items():
        if one.withheld and name not in reasons:
            reasons[name] = (NEEDS_ANOTHER,)
    return SiteCase(case_id, truth, slides, found, reasons)
