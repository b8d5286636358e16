"""What a call rests on: the zone that a probability lies in, or why no answer is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pathgene_rt.bundle.hierarchy import Hierarchy
from pathgene_rt.bundle.zones import DecisionZones, Zone
from pathgene_rt.pages.texts import Texts

Call = Zone | Literal["withheld"]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a call is what it is: ``code`` is a key of the texts' table "reasons", ``figures`` are
    the numbers in that text by name, ``names`` the heads and classes."""

    code: str
    figures: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, str]:
        """The figures and names as texts show them."""
        return {name: f"{value:.3g}" for name, value in self.figures.items()} | dict(self.names)

    @property
    def text(self) -> str:
        """In English."""
        return Texts("en")(f"reasons.{self.code}", **self.shown)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``report.json``."""
        return {
            "code": self.code,
            "figures": dict(self.figures),
            "names": dict(self.names),
            "text": self.text,
        }


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``call`` with its ``reasons``: one, or of what is withheld at least one. ``coarse`` is the
    group that is called where no class of it is certain."""

    call: Call
    reasons: tuple[Reason, ...]
    coarse: str | None = None


def decide(
    zones: DecisionZones | None,
    withheld: Sequence[Reason],
    probability: float,
    interval: tuple[float, float] | None = None,
) -> Decision | None:
    """The decision on a ``probability`` of the positive class, of which the whole slide's lies in
    ``interval`` where that is given; None where the head has no ``zones`` and nothing is withheld.
    """
    if withheld:
        return Decision(call="withheld", reasons=tuple(withheld))
    if zones is None:
        return None
    zone = zones.zone(*(interval or (probability, probability)))
    figures = {
        name: cut_off.value
        for name, cut_off in (("low", zones.rule_out), ("high", zones.rule_in))
        if cut_off is not None
    }
    if zone == "positive":
        reason = Reason(code="ruled_in", figures={"high": zones.high})
    elif zone == "negative":
        reason = Reason(code="ruled_out", figures={"low": zones.low})
    elif zones.zone(probability, probability) != "indeterminate":
        reason = Reason(code="interval_reaches_over")
    elif zones.rule_in is None:
        reason = Reason(code="not_ruled_out", figures=figures)
    elif zones.rule_out is None:
        reason = Reason(code="not_ruled_in", figures=figures)
    else:
        reason = Reason(code="between_cut_offs", figures=figures)
    return Decision(call=zone, reasons=(reason,))


def fall_back(
    hierarchy: Hierarchy,
    classes: Sequence[str],
    probabilities: Sequence[float],
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Decision | None:
    """None where one of ``classes`` is certain enough to be called; else the decision for its
    group, or that there is none. Of a slide that was seen in part, the lower ends of ``intervals``
    must be as certain; those of a group's classes add up.
    """
    least = [low for low, _ in intervals] if intervals else list(probabilities)
    best = max(range(len(classes)), key=lambda place: probabilities[place])
    if least[best] >= hierarchy.at_least:
        return None
    sums = {
        name: (
            sum(least[classes.index(one)] for one in own),
            sum(probabilities[classes.index(one)] for one in own),
        )
        for name, own in hierarchy.groups.items()
    }
    coarse = max(sums, key=lambda name: sums[name][1])
    figures = {"least": hierarchy.at_least, "together": sums[coarse][1]}
    if sums[coarse][0] >= hierarchy.at_least:
        reason = Reason(code="fell_back", figures=figures, names={"coarse": coarse})
        return Decision(call="indeterminate", reasons=(reason,), coarse=coarse)
    reason = Reason(code="no_class_certain", figures=figures, names={"coarse": coarse})
    return Decision(call="indeterminate", reasons=(reason,))
