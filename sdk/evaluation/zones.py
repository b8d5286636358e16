"""The cut-offs of decision zones: what validation cases support, and how they do on others.

A cut-off is an order statistic of the cases of one class, so that the exact bound of Clopper and
Pearson for the k of n that lie beyond it holds for all of that class, although the same cases chose
it: it is a distribution-free tolerance limit (S. Wilks, "Determination of sample sizes for setting
tolerance limits", Annals of Mathematical Statistics 12, 1941). A predictive value needs a bound of
both classes: given a cut-off that one class chose, the cases of the other are an independent
sample, and the numbers k that are tried share the risk (C. Bonferroni, 1936).

The other kind is split-conformal, class by class (V. Vovk, "Conditional validity of inductive
conformal predictors", ACML 2012): it holds on average over cohorts, not with a stated confidence,
and so needs fewer cases.

Cases, not slides, are counted: of a positive case the slide with the lowest probability stands, of
a negative one that with the highest, so that what is stated holds for every slide of a case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pathgene_rt.bundle.zones import CutOff, CutOffMeasure, DecisionZones
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.exact import least_cases, lower_bound, most_errors, two_sided
from pathgene_rt.evaluation.metrics import Floats, Metrics
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.geometry import BoolArray

_TRIED_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Of a class beyond a cut-off for a predictive value; fixed before any case is seen."""

_BELOW_ONE = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, eq=False)
class CaseScores:
    """Of each case the lowest and the highest probability of its slides, float64 [c], and whether
    it is positive, bool [c]."""

    cases: tuple[str, ...]
    lowest: Floats
    highest: Floats
    is_positive: BoolArray

    @classmethod
    def of(cls, scores: Iterable[float], truth: Iterable[bool], cases: Iterable[str]) -> CaseScores:
        """Of slides: their probability of the positive class, whether they are positive, and their
        case. Raises UsageError for a score that is not finite and for a case of both classes."""
        found: dict[str, list[float]] = {}
        actual: dict[str, bool] = {}
        for score, positive, case in zip(scores, truth, cases, strict=True):
            if not math.isfinite(score):
                raise UsageError(f"decision zones: the case {case} has the probability {score}")
            if actual.setdefault(case, bool(positive)) != bool(positive):
                raise UsageError(
                    f"decision zones: the case {case} has slides of both classes; give them one "
                    "label, or leave out zones"
                )
            found.setdefault(case, []).append(float(score))
        return cls(
            tuple(found),
            np.array([min(each) for each in found.values()]),
            np.array([max(each) for each in found.values()]),
            np.array(list(actual.values()), dtype=np.bool_),
        )

    def without(self, cases: Iterable[str]) -> CaseScores:
        """All but ``cases``."""
        left_out = set(cases)
        kept = np.array([case not in left_out for case in self.cases], dtype=np.bool_)
        names = tuple(case for case in self.cases if case not in left_out)
        return CaseScores(names, self.lowest[kept], self.highest[kept], self.is_positive[kept])

    @property
    def positive(self) -> Floats:
        """The lowest probability of each positive case, ascending."""
        return np.sort(self.lowest[self.is_positive])

    @property
    def negative(self) -> Floats:
        """The highest probability of each negative case, ascending."""
        return np.sort(self.highest[~self.is_positive])


@dataclass(frozen=True)
class _Candidate:
    """A cut-off that keeps what is stated. ``movable``: so does every one that decides less."""

    value: float
    movable: bool


def require_support(config: ZonesConfig, positive: int, negative: int) -> None:
    """Raise UsageError where so many validation cases of each class cannot show what ``config``
    states, however well a head tells them apart."""
    for measure, share in config.measures:
        rules_out = measure in ("sensitivity", "npv")
        own, other = (positive, negative) if rules_out else (negative, positive)
        kind = "positive" if rules_out else "negative"
        remedy = "add cases, raise data.validation, take data.folds, or state less"
        if measure in ("npv", "ppv"):
            confidence = _shared_confidence(config, own)
            bounds = (lower_bound(count, count, confidence) for count in (own, other))
            best = _predictive_value(config, measure, *bounds)
            if best < share:
                raise UsageError(
                    f"decision zones: {positive} positive and {negative} negative validation cases "
                    f"cannot show {measure} = {share:g} at the prevalence {config.prevalence:g} "
                    f"with a confidence of {config.confidence:g}, at best {best:.3f}; {remedy}"
                )
            continue
        if config.method == "conformal":
            needed = math.ceil(1 / (1 - share) - 1 - 1e-9)
            sure = ""
        else:
            needed = least_cases(share, config.confidence)
            sure = f" with a confidence of {config.confidence:g}"
        if own < needed:
            raise UsageError(
                f"decision zones: {own} {kind} validation cases cannot show {measure} = {share:g}"
                f"{sure}, that takes {needed}; {remedy}"
            )


def fit_zones(config: ZonesConfig, cases: CaseScores) -> tuple[DecisionZones | None, list[str]]:
    """The zones that ``cases`` support, None if no probability is a cut-off, and notes on cut-offs
    that are missing. Raises UsageError as :func:`require_support` does.
    """
    require_support(config, len(cases.positive), len(cases.negative))
    candidates: dict[bool, list[_Candidate]] = {True: [], False: []}
    notes = []
    for measure, share in config.measures:
        rules_out = measure in ("sensitivity", "npv")
        found = _candidates(config, measure, share, cases)
        candidates[rules_out] = found
        if not found:
            notes.append(
                f"decision zones: no cut-off shows {measure} = {share:g} on the validation cases, "
                f"so nothing is ruled {'out' if rules_out else 'in'}"
            )
    low, high = _uncrossed(candidates[True], candidates[False], cases)
    if candidates[True] and candidates[False] and high is None:
        notes.append("decision zones: the cut-offs cross, so nothing is ruled in")
    if low is None and high is None:
        return None, notes
    values = {True: low, False: high}
    made = {
        "rule_out" if measure in ("sensitivity", "npv") else "rule_in": _cut_off(
            config, measure, share, value, cases
        )
        for measure, share in config.measures
        if (value := values[measure in ("sensitivity", "npv")]) is not None
    }
    return DecisionZones(**made), notes


def check_zones(checked: Sequence[tuple[DecisionZones, CaseScores]]) -> Metrics:
    """How zones did on cases that chose nothing, with exact 95 % intervals over cases.

    A reference test is saved on a case of which all slides are ruled out, or all ruled in. A
    positive case is missed if any slide of it is ruled out; a negative one is wrong if any is ruled
    in.
    """
    positive = negative = missed = wrong = saved = 0
    for zones, cases in checked:
        out, into = cases.lowest < zones.low, cases.highest >= zones.high
        positive += int(cases.is_positive.sum())
        negative += int((~cases.is_positive).sum())
        missed += int((out & cases.is_positive).sum())
        wrong += int((into & ~cases.is_positive).sum())
        saved += int(((cases.highest < zones.low) | (cases.lowest >= zones.high)).sum())
    metrics: Metrics = {"zones_cases": positive + negative}
    for name, right, count in (
        ("reference_tests_saved", saved, positive + negative),
        ("sensitivity", positive - missed, positive),
        ("specificity", negative - wrong, negative),
    ):
        if count:
            metrics[f"zones_{name}"] = right / count
            metrics[f"zones_{name}_interval"] = list(two_sided(right, count))
    return metrics


def _candidates(
    config: ZonesConfig, measure: CutOffMeasure, share: float, cases: CaseScores
) -> list[_Candidate]:
    """Cut-offs of which all together keep what is stated, the one that decides most first."""
    positive, negative = cases.positive, cases.negative
    rules_out = measure in ("sensitivity", "npv")
    own, other = (positive, negative) if rules_out else (negative, positive)
    if measure in ("sensitivity", "specificity"):
        value = _at(own, _allowed_errors(config, share, len(own)), rules_out=rules_out)
        return [] if value is None else [_Candidate(value, movable=True)]
    confidence = _shared_confidence(config, len(own))
    found = []
    for errors in _tried(len(own)):
        value = _at(own, errors, rules_out=rules_out)
        if value is None:
            continue
        decided = int((other < value).sum() if rules_out else (other >= value).sum())
        bounds = (
            lower_bound(len(own) - errors, len(own), confidence),
            lower_bound(decided, len(other), confidence),
        )
        if _predictive_value(config, measure, *bounds) >= share:
            found.append(_Candidate(value, movable=False))
    return found[::-1]


def _allowed_errors(config: ZonesConfig, share: float, cases: int) -> int:
    """How many of ``cases`` may lie beyond a cut-off; they are enough for it."""
    if config.method == "conformal":
        return math.floor((1 - share) * (cases + 1) + 1e-9) - 1
    errors = most_errors(cases, share, config.confidence)
    assert errors is not None  # require_support refused it otherwise
    return errors


def _at(own: Floats, errors: int, *, rules_out: bool) -> float | None:
    """The cut-off beyond which ``errors`` of ``own`` float64 [n], ascending, lie, or fewer where
    some are equal; None where that is no probability between 0 and 1."""
    if rules_out:
        value = min(float(own[errors]), _BELOW_ONE)
        return value if value > 0 else None
    value = math.nextafter(float(own[len(own) - 1 - errors]), 2.0)
    return value if value < 1 else None


def _uncrossed(
    out: Sequence[_Candidate], into: Sequence[_Candidate], cases: CaseScores
) -> tuple[float | None, float | None]:
    """(rule out, rule in) in order: those that decide most; where these cross, one that may move
    does, and else the pair that decides the most cases."""
    if not out or not into:
        return (out[0].value if out else None), (into[0].value if into else None)
    low, high = out[0], into[0]
    if low.value <= high.value:
        return low.value, high.value
    if low.movable or high.movable:
        least = high.value if low.movable else low.value
        most = low.value if high.movable else high.value
        return (least + most) / 2, (least + most) / 2
    pairs = [(one.value, two.value) for one in out for two in into if one.value <= two.value]
    if not pairs:
        return low.value, None
    return max(
        pairs, key=lambda pair: int(((cases.highest < pair[0]) | (cases.lowest >= pair[1])).sum())
    )


def _cut_off(
    config: ZonesConfig, measure: CutOffMeasure, share: float, value: float, cases: CaseScores
) -> CutOff:
    rules_out = measure in ("sensitivity", "npv")
    own = cases.positive if rules_out else cases.negative
    predictive = measure in ("npv", "ppv")
    return CutOff(
        value=value,
        measure=measure,
        at_least=share,
        confidence=None if config.method == "conformal" else config.confidence,
        cases=len(cases.cases) if predictive else len(own),
        errors=int((own < value).sum() if rules_out else (own >= value).sum()),
        prevalence=config.prevalence if predictive else None,
    )


def _tried(cases: int) -> list[int]:
    """The numbers of errors that are tried, ascending."""
    return sorted({math.floor(share * cases) for share in _TRIED_SHARES if cases})


def _shared_confidence(config: ZonesConfig, cases: int) -> float:
    """With which each of the bounds holds for all that are tried to hold together."""
    return 1 - (1 - config.confidence) / (2 * max(1, len(_tried(cases))))


def _predictive_value(
    config: ZonesConfig, measure: CutOffMeasure, own: float, other: float
) -> float:
    """NPV of (sensitivity, specificity), PPV of (specificity, sensitivity), at the prevalence."""
    assert config.prevalence is not None  # the configuration was refused otherwise
    of_other = 1 - config.prevalence if measure == "npv" else config.prevalence
    right, wrong = other * of_other, (1 - own) * (1 - of_other)
    return right / (right + wrong) if right > 0 else 0.0
