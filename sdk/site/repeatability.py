"""Whether answers are the same when a slide is predicted again, or scanned again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.evaluation.agreement import Agreement, agreement
from pathgene_rt.site.slides import KnownSlides, PredictedSlide

Kind = Literal["same_slide", "rescan", "scanners"]
KINDS: tuple[Kind, ...] = ("same_slide", "rescan", "scanners")

Pair = tuple[PredictedSlide, PredictedSlide]


@dataclass(frozen=True, kw_only=True)
class Repeatability:
    """Of one head, over pairs of a kind: the same slide predicted twice, a glass scanned twice by
    one scanner, or by two. ``largest`` is the largest difference of any class's probability."""

    kind: Kind
    head: str
    calls: Agreement
    largest: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def repeatability(
    known: KnownSlides, slides: Sequence[PredictedSlide], again: Sequence[Pair], bundle: Bundle
) -> tuple[Repeatability, ...]:
    """For each head and kind of which there are pairs; ``again`` are slides predicted twice."""
    by_kind: dict[Kind, list[Pair]] = {kind: [] for kind in KINDS}
    by_kind["same_slide"] = list(again)
    for kind, pair in scans_of_a_glass(known, slides):
        by_kind[kind].append(pair)
    return tuple(
        _of_pairs(kind, head.name, pairs)
        for kind, pairs in by_kind.items()
        for head in bundle.heads
        if pairs
    )


def scans_of_a_glass(
    known: KnownSlides, slides: Sequence[PredictedSlide]
) -> Iterable[tuple[Kind, Pair]]:
    """Every two scans of a glass."""
    by_id = {slide.slide_id: slide for slide in slides}
    glasses: dict[tuple[str, str], list[tuple[str, PredictedSlide]]] = {}
    for row in known.rows:
        if row.glass and row.slide_id in by_id:
            scan = (row.scanner, by_id[row.slide_id])
            glasses.setdefault((row.case_id, row.glass), []).append(scan)
    for scans in glasses.values():
        for (one_scanner, one), (other_scanner, other) in combinations(scans, 2):
            yield ("rescan" if one_scanner == other_scanner else "scanners"), (one, other)


def _of_pairs(kind: Kind, head: str, pairs: Sequence[Pair]) -> Repeatability:
    predictions = [(one.predictions[head], other.predictions[head]) for one, other in pairs]
    return Repeatability(
        kind=kind,
        head=head,
        calls=agreement(
            [one.call for one, _ in predictions], [other.call for _, other in predictions]
        ),
        largest=max(
            abs(a - b)
            for one, other in predictions
            for a, b in zip(one.probabilities, other.probabilities, strict=True)
        ),
    )
