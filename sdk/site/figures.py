"""How one head does on a site's cases, beside what its bundle claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.bundle.zones import can_have_zones, cut_offs
from pathgene_rt.evaluation.agreement import Agreement, agreement
from pathgene_rt.evaluation.delong import areas
from pathgene_rt.evaluation.exact import two_sided
from pathgene_rt.evaluation.reliability import (
    ReliabilityBin,
    brier_score,
    calibration_error,
    reliability,
)
from pathgene_rt.geometry import BoolArray
from pathgene_rt.heads.prediction import NO_CALL
from pathgene_rt.site.cases import SiteCase

LEAST_CASES = 60
"""What the College of American Pathologists asks for to validate whole-slide imaging (A. Evans and
others, Arch. Pathol. Lab. Med. 146, 2022)."""

Text = tuple[str, dict[str, str]]
"""A key of the catalogue and the values in its text."""

Verdict = Literal["agrees", "below", "above"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """``right`` of ``count`` with the exact 95 % interval; both None of nothing."""

    right: int
    count: int

    @property
    def value(self) -> float | None:
        return self.right / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return two_sided(self.right, self.count) if self.count else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "count": self.count,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
        }


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Of one class against the others, over cases that were answered. ``auroc_interval`` is
    DeLong's; None where the classes do not overlap. A positive case counts for sensitivity unless
    the class is ruled out, a negative one for specificity unless it is ruled in; ``decided`` are
    either."""

    name: str
    positive: int
    negative: int
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    sensitivity: Share
    specificity: Share
    decided: Share

    def to_dict(self) -> dict[str, Any]:
        shares = ("sensitivity", "specificity", "decided")
        return {**asdict(self), **{name: getattr(self, name).to_dict() for name in shares}}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a bundle says of ``figure``, what was ``found`` with its interval, and whether that goes
    together."""

    figure: str
    claimed: float
    source: str
    found: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> Verdict:
        low, high = self.interval
        if high < self.claimed:
            return "below"
        return "above" if low > self.claimed and self.source != "cut-off" else "agrees"


@dataclass(frozen=True, kw_only=True)
class HeadFigures:
    """``calls`` counts cases by (true classes, call). ``concordance`` is of decided calls with the
    truth. ``withheld`` counts cases by the codes of their reasons; a case may have several.
    ``curve`` and the errors of probabilities are of heads with one positive class."""

    head: str
    gene: str | None
    column: str
    cases: int
    failed: int
    withheld: dict[str, int]
    withheld_cases: int
    calls: dict[str, dict[str, int]]
    concordance: Agreement | None
    classes: tuple[ClassFigures, ...]
    calibration_error: float | None
    brier_score: float | None
    curve: tuple[ReliabilityBin, ...]
    claims: tuple[Claim, ...]
    notes: tuple[Text, ...]

    def to_dict(self) -> dict[str, Any]:
        """For ``validation.json``."""
        document = asdict(self)
        document["classes"] = [one.to_dict() for one in self.classes]
        document["claims"] = [asdict(one) | {"verdict": one.verdict} for one in self.claims]
        document["notes"] = [key for key, _ in self.notes]
        return document


def figures_of(head: HeadSpec, column: str, cases: Sequence[SiteCase]) -> HeadFigures:
    """Of the ``cases`` that have a label for ``head``, which is in the table's ``column``."""
    known = [case for case in cases if head.name in case.truth]
    failed = [case for case in known if case.failed]
    held = [case for case in known if case.reasons.get(head.name)]
    answered = [case for case in known if not case.failed and not case.reasons.get(head.name)]
    calls: dict[str, dict[str, int]] = {}
    for case in known:
        row = calls.setdefault(_named(case, head), {})
        call = case.call(head.name)
        row[call] = row.get(call, 0) + 1
    classes = _classes(head, answered)
    binary = can_have_zones(len(head.model.classes), head.model.activation)
    error = brier = None
    curve: tuple[ReliabilityBin, ...] = ()
    if binary and answered:
        stated = np.array([case.predictions[head.name].probabilities[-1] for case in answered])
        truth = _truth(head, answered, head.model.classes[-1])
        error, brier = calibration_error(stated, truth), brier_score(stated, truth)
        curve = reliability(stated, truth, min(10, max(1, len(answered) // 10)))
    return HeadFigures(
        head=head.name,
        gene=head.task.gene,
        column=column,
        cases=len(known),
        failed=len(failed),
        withheld=dict(Counter(code for case in held for code in case.reasons[head.name])),
        withheld_cases=len(held),
        calls=calls,
        concordance=_concordance(head, answered),
        classes=classes,
        calibration_error=error,
        brier_score=brier,
        curve=curve,
        claims=tuple(_claims(head, classes[0])) if binary and classes else (),
        notes=tuple(_notes(head, known, answered)),
    )


def _truth(head: HeadSpec, cases: Sequence[SiteCase], name: str) -> BoolArray:
    return np.array([name in case.truth[head.name] for case in cases], dtype=np.bool_)


def _named(case: SiteCase, head: HeadSpec) -> str:
    """The true classes of ``case``, as calls name them."""
    truth = case.truth[head.name]
    return ", ".join(name for name in head.model.classes if name in truth) or NO_CALL


def _concordance(head: HeadSpec, answered: Sequence[SiteCase]) -> Agreement | None:
    decided = [case for case in answered if case.predictions[head.name].is_decided]
    if not decided:
        return None
    called = []
    for case in decided:
        one = case.predictions[head.name]
        places = one.called
        if one.decision is not None:  # by zones: of its last class
            positive = one.decision.call == "positive"
            places = (len(one.classes) - 1,) if positive else (0,) if len(one.classes) > 1 else ()
        called.append(", ".join(one.classes[place] for place in places) or NO_CALL)
    return agreement([_named(case, head) for case in decided], called)


def _classes(head: HeadSpec, answered: Sequence[SiteCase]) -> tuple[ClassFigures, ...]:
    if not answered:
        return ()
    names = head.model.classes
    binary = can_have_zones(len(names), head.model.activation)
    return tuple(
        _class(head, place, answered)
        for place in range(len(names))
        if not binary or place == len(names) - 1
    )


def _class(head: HeadSpec, place: int, answered: Sequence[SiteCase]) -> ClassFigures:
    name = head.model.classes[place]
    truth = _truth(head, answered, name)
    own = [case.predictions[head.name] for case in answered]
    ruled_in, ruled_out = np.zeros(len(own), np.bool_), np.zeros(len(own), np.bool_)
    for row, one in enumerate(own):
        if one.decision is not None:
            ruled_in[row] = one.decision.call == "positive"
            ruled_out[row] = one.decision.call == "negative"
        else:
            ruled_in[row] = place in one.called
            ruled_out[row] = not ruled_in[row]
    area = interval = None
    if truth.any() and not truth.all():
        found = areas(truth, np.array([[one.probabilities[place] for one in own]]))
        area, interval = float(found.values[0]), found.interval(0)
    positive, negative = int(truth.sum()), int((~truth).sum())
    return ClassFigures(
        name=name,
        positive=positive,
        negative=negative,
        auroc=area,
        auroc_interval=interval,
        sensitivity=Share(right=int((truth & ~ruled_out).sum()), count=positive),
        specificity=Share(right=int((~truth & ~ruled_in).sum()), count=negative),
        decided=Share(right=int((ruled_in | ruled_out).sum()), count=len(own)),
    )


def _claims(head: HeadSpec, found: ClassFigures) -> list[Claim]:
    """What the bundle's training and cut-offs say, where it was found here with an interval."""
    metrics = head.task.metrics
    claims = []
    claimed = metrics.get("auroc")
    if isinstance(claimed, float) and found.auroc is not None and found.auroc_interval:
        claims.append(
            Claim(
                figure="auroc",
                claimed=claimed,
                source="training",
                found=found.auroc,
                interval=found.auroc_interval,
            )
        )
    prefix = "" if head.task.zones is None else "zones_"
    for name in ("sensitivity", "specificity"):
        share: Share = getattr(found, name)
        claimed = metrics.get(prefix + name)
        if isinstance(claimed, float) and share.value is not None and share.interval:
            claims.append(
                Claim(
                    figure=name,
                    claimed=claimed,
                    source="training",
                    found=share.value,
                    interval=share.interval,
                )
            )
    for _, cut_off in cut_offs(head.task.zones):
        if cut_off.measure in ("sensitivity", "specificity"):
            share = getattr(found, cut_off.measure)
            if share.value is not None and share.interval:
                claims.append(
                    Claim(
                        figure=cut_off.measure,
                        claimed=cut_off.at_least,
                        source="cut-off",
                        found=share.value,
                        interval=share.interval,
                    )
                )
    return claims


def _notes(head: HeadSpec, known: Sequence[SiteCase], answered: Sequence[SiteCase]) -> list[Text]:
    notes: list[Text] = []
    if len(known) < LEAST_CASES:
        notes.append(("site.few_cases", {"cases": str(len(known)), "least": str(LEAST_CASES)}))
    if not answered:
        notes.append(("site.none_answered", {}))
    elif len({case.truth[head.name] for case in answered}) == 1:
        notes.append(("site.one_class", {"name": _named(answered[0], head)}))
    if not head.task.metrics and head.task.zones is None:
        notes.append(("site.no_claims", {}))
    return notes
