"""A panel that agrees with itself: answers that need another head's are given only with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pathgene_rt.bundle.panel import Requirement
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.heads.decision import Reason
from pathgene_rt.heads.prediction import Prediction

NEEDS_ANOTHER = "needs_another"
"""The code of the reason."""


def agreeing(
    panel: Sequence[Requirement], predictions: Sequence[Prediction]
) -> tuple[Prediction, ...]:
    """``predictions``, those withheld whose requirement in ``panel`` is not met."""
    by_head = {one.head: one for one in predictions}
    waiting = list(panel)
    while waiting:
        # What another still waits for is judged first; the bundle refuses circles.
        heads = {one.head for one in waiting}
        now = [one for one in waiting if one.needs not in heads]
        for one in now:
            if not _is_called(by_head[one.needs], one.called):
                reason = Reason(code=NEEDS_ANOTHER, names={"head": one.needs, "called": one.called})
                own = by_head[one.head]
                by_head[one.head] = replace(own, withheld=(*own.withheld, reason))
        waiting = [one for one in waiting if one not in now]
    return tuple(by_head[one.head] for one in predictions)


def contradictions(
    panel: Sequence[Requirement], heads: Sequence[HeadSpec], predictions: Sequence[Prediction]
) -> tuple[str, ...]:
    """A warning for each requirement of ``panel`` whose two heads say what cannot both be."""
    by_head = {one.head: one for one in predictions}
    specs = {head.name: head for head in heads}
    found = []
    for one in panel:
        needed, own = by_head[one.needs], by_head[one.head]
        says = _says_something(specs[one.head], own)
        if says is None or not needed.is_decided:
            continue
        if _is_called(needed, one.called) != says:
            found.append(
                f"{one.needs} is called {needed.call}, but {own.head} by itself would be called "
                f"{replace(own, zones=None, withheld=()).call}: one of them is wrong"
            )
    return tuple(found)


def _is_called(prediction: Prediction, name: str) -> bool:
    """Whether ``prediction`` is decided for its class ``name``."""
    place = prediction.classes.index(name)
    return prediction.is_decided and place in prediction.called


def _says_something(head: HeadSpec, prediction: Prediction) -> bool | None:
    """Whether a head by itself finds what it is about; None for one that always names a class."""
    if head.model.activation == "sigmoid":
        return bool(prediction.called)
    return prediction.called == (1,) if len(prediction.classes) == 2 else None
