"""Decision zones: below one cut-off a head's class is ruled out, from another on it is ruled in.

Between them a slide is to be tested with the reference method (PCR, NGS).

Training or a site sets the cut-offs (``evaluation/zones.py``); predicting only applies them.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.calibration import Activation

Zone = Literal["positive", "negative", "indeterminate"]
CutOffMeasure = Literal["sensitivity", "specificity", "npv", "ppv"]

_STRICT = ConfigDict(extra="forbid")
_OF_RULE_OUT = frozenset({"sensitivity", "npv"})


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CutOff:
    """A probability of the positive class, and what was shown to hold beyond it.

    ``measure`` is ``at_least`` with ``confidence``, by exact bounds over ``cases``, of which
    ``errors`` lie on the wrong side; where ``confidence`` is None, it is so on average over cohorts
    (split-conformal). Predictive values are those at ``prevalence``.
    """

    value: float = Field(gt=0, lt=1)
    measure: CutOffMeasure
    at_least: float = Field(gt=0, lt=1)
    confidence: float | None = Field(gt=0, lt=1)
    cases: int = Field(ge=1)
    errors: int = Field(ge=0)
    prevalence: float | None = Field(default=None, gt=0, lt=1)

    def describe(self) -> str:
        """What holds beyond it, in words."""
        at = "" if self.prevalence is None else f" at a prevalence of {self.prevalence:g}"
        sure = "on average" if self.confidence is None else f"{self.confidence:.0%} confidence"
        name = self.measure.upper() if self.measure in ("npv", "ppv") else self.measure
        return f"{name} at least {self.at_least:g}{at}, {sure}, from {self.cases} cases"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DecisionZones:
    """The cut-offs of a head's last class, of two exclusive ones or the only one.

    A probability below ``rule_out`` is negative, from ``rule_in`` on positive, else indeterminate;
    None where nothing is ruled out, or in.
    """

    rule_out: CutOff | None = None
    rule_in: CutOff | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        low, high = self.rule_out, self.rule_in
        if low is None and high is None:
            raise ValueError("decision zones need a cut-off to rule out, one to rule in, or both")
        if low is not None and low.measure not in _OF_RULE_OUT:
            raise ValueError(f"rule_out holds no {low.measure}; it holds sensitivity or npv")
        if high is not None and high.measure in _OF_RULE_OUT:
            raise ValueError(f"rule_in holds no {high.measure}; it holds specificity or ppv")
        if low is not None and high is not None and low.value > high.value:
            raise ValueError(
                f"the cut-offs are crossed: rule_out {low.value:g} is above rule_in {high.value:g}"
            )
        return self

    @property
    def low(self) -> float:
        """Probabilities below it are negative."""
        return 0.0 if self.rule_out is None else self.rule_out.value

    @property
    def high(self) -> float:
        """Probabilities from it on are positive; infinity where none is."""
        return float("inf") if self.rule_in is None else self.rule_in.value

    def zone(self, least: float, most: float) -> Zone:
        """Of a probability that lies from ``least`` to ``most``: decided only if all of that is."""
        if most < self.low:
            return "negative"
        return "positive" if least >= self.high else "indeterminate"

    def describe(self) -> str:
        """The cut-offs in a few words."""
        return ", ".join(f"{name} {cut_off.value:.3g}" for name, cut_off in cut_offs(self))

    def holds(self, threshold: float) -> bool:
        """Whether ``threshold`` divides what the zones leave open, as it has to: calls would
        contradict it otherwise."""
        return self.low <= threshold <= self.high


def can_have_zones(classes: int, activation: Activation | None) -> bool:
    """Whether a head has one class that is positive: the last of two exclusive ones, or its only
    one."""
    return (classes, activation) in ((2, "softmax"), (1, "sigmoid"))


def cut_offs(zones: DecisionZones | None) -> tuple[tuple[str, CutOff], ...]:
    """The cut-offs that there are, each with what it does in words."""
    if zones is None:
        return ()
    named = (("ruled out below", zones.rule_out), ("ruled in from", zones.rule_in))
    return tuple((name, cut_off) for name, cut_off in named if cut_off is not None)
