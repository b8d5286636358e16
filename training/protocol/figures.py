"""A trained head's figures, as leaderboards show and compare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pathgene_rt.training.protocol.cross_validation import TrainedHead


@dataclass(frozen=True)
class EncoderRow:
    """An encoder beside the others of a comparison: ``best`` are the heads of the best AUROC by
    task. ``mean_rank`` is over all ``comparisons``, the pairs of a task and a method that every
    encoder has; 1 is the best of each, encoders that are equal share the ranks."""

    encoder: str
    mean_rank: float
    comparisons: int
    best: dict[str, TrainedHead]


def by_task(heads: Sequence[TrainedHead]) -> dict[str, list[TrainedHead]]:
    """``heads`` by their column of the labels, in the order that these come in, each task's by
    AUROC, the best first."""
    boards: dict[str, list[TrainedHead]] = {}
    for head in heads:
        boards.setdefault(head.column, []).append(head)
    return {
        task: sorted(own, key=lambda head: -figure(head, "auroc")) for task, own in boards.items()
    }


def encoder_rows(heads: Sequence[TrainedHead]) -> list[EncoderRow]:
    """The encoders of ``heads``, the best first; none where there is no choice of them."""
    encoders = list(dict.fromkeys(head.encoder for head in heads if head.encoder is not None))
    if len(encoders) < 2:
        return []
    pairs: dict[tuple[str, str], dict[str, float]] = {}
    for head in heads:
        own = pairs.setdefault((head.column, head.architecture), {})
        own[str(head.encoder)] = figure(head, "auroc")
    whole = [found for found in pairs.values() if len(found) == len(encoders)]
    rows = []
    for encoder in encoders:
        ranks = [_rank(found[encoder], list(found.values())) for found in whole]
        best = {
            task: next(head for head in own if head.encoder == encoder)
            for task, own in by_task(heads).items()
            if any(head.encoder == encoder for head in own)
        }
        mean = sum(ranks) / len(ranks) if ranks else math.nan
        rows.append(EncoderRow(encoder, mean, len(ranks), best))
    return sorted(rows, key=lambda row: row.mean_rank)


def label_of(head: TrainedHead) -> str:
    """What tells it from the others for its task."""
    return head.architecture if head.encoder is None else f"{head.architecture}, {head.encoder}"


def folds_of(head: TrainedHead) -> list[float]:
    """AUROC of each fold; empty where there was one split."""
    folds = head.metrics.get("auroc_folds")
    return folds if isinstance(folds, list) else []


def figure(head: TrainedHead, name: str) -> float:
    value = head.metrics[name]
    assert isinstance(value, float)
    return value


def interval(head: TrainedHead, name: str = "auroc") -> tuple[float, float]:
    bounds = head.metrics[f"{name}_interval"]
    assert isinstance(bounds, list)
    low, high = bounds
    return low, high


def axis_start(heads: Sequence[TrainedHead]) -> float:
    """A tenth below everything that is drawn, and at most 0.5, where chance is."""
    lows = [interval(head)[0] for head in heads]
    for head in heads:
        lows += folds_of(head)
    return min(0.5, math.floor(min(lows) * 10) / 10)


def _rank(value: float, among: Sequence[float]) -> float:
    """From 1, the highest being the first; equal ones share the mean of their ranks."""
    better = sum(other > value for other in among)
    equal = sum(other == value for other in among)
    return better + (equal + 1) / 2
