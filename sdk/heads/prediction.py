"""What a head says of a slide: logits become probabilities and a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathgene_rt.bundle.hierarchy import Hierarchy
from pathgene_rt.bundle.spec import HeadSpec, TaskKind
from pathgene_rt.bundle.zones import DecisionZones
from pathgene_rt.errors import EngineError
from pathgene_rt.heads.decision import Decision, Reason, decide, fall_back
from pathgene_rt.heads.jackknife import Interval

NO_CALL = "none"
"""The call of a sigmoid head when no class reaches the threshold."""


@dataclass(frozen=True)
class Prediction:
    """One head's answer for one slide or case.

    ``probabilities`` are calibrated and in the order of ``classes``. ``called`` are the indices of
    the classes that ``threshold`` calls: exactly one for softmax, none or more for sigmoid.
    ``threshold`` is None where none was applied (likeliest of several classes).
    ``logits`` are None for the mean of a case's slides. ``interval`` is where each class's
    probability for the whole slide lies with 95 % confidence; None where the whole slide was seen.

    ``hierarchy`` has groups of the classes, of which one is called where none of its classes is
    certain.

    ``call`` names the called classes, joined by ", ". Where the head has ``zones``, or the answer
    is ``withheld`` for one or more reasons, it is that of ``decision`` instead.
    """

    head: str
    kind: TaskKind
    gene: str | None
    classes: tuple[str, ...]
    logits: tuple[float, ...] | None
    probabilities: tuple[float, ...]
    threshold: float | None
    called: tuple[int, ...]
    has_attention: bool
    interval: Interval | None = None
    zones: DecisionZones | None = None
    withheld: tuple[Reason, ...] = ()
    hierarchy: Hierarchy | None = None

    @property
    def decision(self) -> Decision | None:
        """What the head's zones say, that the answer is withheld, or that no class is certain
        enough to be called by itself; None: nothing of these."""
        if self.hierarchy is not None and not self.withheld:
            return fall_back(self.hierarchy, self.classes, self.probabilities, self.interval)
        interval = None if self.interval is None else self.interval[-1]
        return decide(self.zones, self.withheld, self.probabilities[-1], interval)

    @property
    def call(self) -> str:
        decision = self.decision
        if decision is not None:
            return decision.coarse or decision.call
        return ", ".join(self.classes[place] for place in self.called) or NO_CALL

    @property
    def is_decided(self) -> bool:
        """Whether ``call`` stands for the classes of ``called``."""
        decision = self.decision
        return decision is None or decision.call in ("positive", "negative")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``report.json`` and in the output of ``predict --json``."""
        decision = self.decision
        reasons = () if decision is None else decision.reasons
        return {
            "head": self.head,
            "task": self.kind,
            "gene": self.gene,
            "classes": list(self.classes),
            "probabilities": list(self.probabilities),
            "call": self.call,
            "reasons": [reason.to_dict() for reason in reasons],
            "called": list(self.called) if self.is_decided else [],
            "coarse": None if decision is None else decision.coarse,
            "zones": None if self.zones is None else asdict(self.zones),
            "threshold": self.threshold,
            "logits": None if self.logits is None else list(self.logits),
            "has_attention": self.has_attention,
            "interval": None if self.interval is None else [list(ends) for ends in self.interval],
        }


def make_prediction(head: HeadSpec, logits: ArrayLike) -> Prediction:
    """Apply calibration, activation and threshold of ``head`` to its ``logits`` [classes].

    A class is called when its probability is at least the threshold: of two softmax classes the
    last, of sigmoid classes each. Of several softmax classes the likeliest is called. Raises
    EngineError if the logits do not fit the classes or are not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    classes = head.model.classes
    activation = head.model.activation
    if activation is None or len(classes) < (2 if activation == "softmax" else 1):
        raise EngineError(
            f"head {head.name} has {len(classes)} classes and the activation {activation}, which "
            "makes no probabilities; export the bundle again"
        )
    if values.shape != (len(classes),):
        raise EngineError(
            f"head {head.name} gave logits of shape {values.shape} for {len(classes)} classes; "
            "export the bundle again"
        )
    if not np.isfinite(values).all():
        raise EngineError(
            f"head {head.name} gave the logits {values.tolist()}; run pathgene-rt verify"
        )
    probabilities = head.calibration.apply(values)
    threshold = applied_threshold(head)
    return Prediction(
        head=head.name,
        kind=head.task.kind,
        gene=head.task.gene,
        classes=classes,
        logits=tuple(values.tolist()),
        probabilities=tuple(probabilities.tolist()),
        threshold=threshold,
        called=_called(probabilities, threshold, exclusive=activation == "softmax"),
        has_attention=head.model.has_attention,
        zones=head.task.zones,
        hierarchy=head.task.hierarchy,
    )


def mean_prediction(head: HeadSpec, slides: Sequence[Prediction]) -> Prediction:
    """The unweighted mean of ``head``'s probabilities for the slides of a case, called as a slide's
    probabilities are.
    """
    probabilities = np.mean([slide.probabilities for slide in slides], axis=0)
    exclusive = head.model.activation == "softmax"
    return replace(
        slides[0],
        logits=None,
        probabilities=tuple(probabilities.tolist()),
        withheld=(),
        called=_called(probabilities, applied_threshold(head), exclusive=exclusive),
    )


def applied_threshold(head: HeadSpec) -> float | None:
    """The head's threshold; None where the likeliest of several softmax classes is called."""
    several = head.model.activation == "softmax" and len(head.model.classes) > 2
    return None if several else head.task.threshold


def _called(
    probabilities: NDArray[np.float64], threshold: float | None, *, exclusive: bool
) -> tuple[int, ...]:
    if threshold is None:
        return (int(probabilities.argmax()),)
    if exclusive:
        return (int(probabilities[-1] >= threshold),)
    return tuple(np.flatnonzero(probabilities >= threshold).tolist())


@dataclass(frozen=True, kw_only=True)
class Partial:
    """What a report is of that was ended before the slide's last tile, and ``why`` it was.
    ``tiles_total`` is None where it was not known yet."""

    tiles_done: int
    tiles_total: int | None
    why: str

    def describe(self) -> str:
        """One line for a person."""
        total = "" if self.tiles_total is None else f" of {self.tiles_total:,}"
        return f"partial, {self.tiles_done:,}{total} tiles: {self.why}"
