"""What a reader needs to judge a head's figures: leakage, centres, calibration.

They are found in the data and kept among the head's metrics, so that leaderboard, checkpoint, model
card and ``inspect`` have the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathgene_rt.evaluation.metrics import Floats, Metrics, auroc, counted_classes
from pathgene_rt.evaluation.reliability import calibration_error, reliability
from pathgene_rt.geometry import BoolArray
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide, Split
from pathgene_rt.training.protocol.plan import HeadPlan

CENTRE = "centre "
"""Begins the names of the figures of one centre: ``centre <name> auroc``."""
_MOST_CENTRES = 40
_HASHED_TILES = 64


@dataclass(frozen=True)
class Leakage:
    """What the parts of splits share, each pair of parts of a split counted once: ``cases`` and
    ``slides`` by their ids, ``copies`` are slides with the same features under other ids.
    ``centres`` are those on both sides, of ``known_centres``; None where slides do not say theirs.
    """

    cases: int
    slides: int
    copies: int
    centres: int | None
    known_centres: int

    @property
    def statement(self) -> str:
        """In words."""
        found = [
            f"{count} {what}"
            for count, what in (
                (self.cases, "cases"),
                (self.slides, "slides"),
                (self.copies, "slides with equal features under other names"),
            )
        ]
        centres = "centres are not known"
        if self.centres is not None:
            centres = f"{self.centres} of {self.known_centres} centres are on both sides"
        return f"checked: the parts share {', '.join(found)}; {centres}"


def disclosed(
    plan: HeadPlan,
    slides: Sequence[LabelledSlide],
    truth: BoolArray,
    probabilities: Floats,
    bags: BagStore,
) -> Metrics:
    """Of a head that gave ``probabilities`` float64 [n, classes] for ``slides`` of ``truth`` bool
    [n, classes], which it was judged on."""
    external = plan.external.slides if plan.external is not None else ()
    metrics: Metrics = {"leakage": leakage(plan.folds, external, bags).statement}
    metrics |= by_centre(slides, truth, probabilities, plan)
    counted = counted_classes(truth.shape[1], plan.targets.activation)
    stated, found = probabilities[:, counted].ravel(), truth[:, counted].ravel()
    metrics["calibration_error"] = calibration_error(stated, found)
    curve = reliability(stated, found)
    metrics["calibration_stated"] = [one.stated for one in curve]
    metrics["calibration_found"] = [one.found for one in curve]
    metrics["calibration_low"] = [one.low for one in curve]
    metrics["calibration_high"] = [one.high for one in curve]
    return metrics


def leakage(folds: Sequence[Split], external: Sequence[LabelledSlide], bags: BagStore) -> Leakage:
    """Of the splits, and of the ``external`` slides with all others."""
    hashes: dict[str, str] = {}
    cases: set[str] = set()
    slides: set[str] = set()
    copies: set[str] = set()
    centres: set[str] = set()
    known: set[str] = set()
    whole = folds[0]
    internal = (*whole.train, *whole.validation, *whole.test)
    pairs: list[tuple[Iterable[LabelledSlide], Iterable[LabelledSlide]]] = []
    for split in folds:
        pairs += [
            (split.train, split.validation),
            (split.train, split.test),
            (split.validation, split.test),
        ]
    if external:
        pairs.append((internal, external))
    for one, other in pairs:
        mine, theirs = list(one), list(other)
        cases |= {slide.case_id for slide in mine} & {slide.case_id for slide in theirs}
        slides |= {slide.slide_id for slide in mine} & {slide.slide_id for slide in theirs}
        by_hash = {_digest(slide, bags, hashes): slide.slide_id for slide in mine}
        for slide in theirs:
            twin = by_hash.get(_digest(slide, bags, hashes))
            if twin is not None and twin != slide.slide_id:
                copies.add(slide.slide_id)
        known |= {slide.centre for slide in (*mine, *theirs) if slide.centre}
        centres |= {slide.centre for slide in mine} & {slide.centre for slide in theirs} - {""}
    return Leakage(
        len(cases), len(slides), len(copies), len(centres) if known else None, len(known)
    )


def by_centre(
    slides: Sequence[LabelledSlide], truth: BoolArray, probabilities: Floats, plan: HeadPlan
) -> Metrics:
    """For each centre its slides and cases, and the AUROC where it has both classes: the mean over
    the classes that count. Nothing where there are not two centres that are known."""
    names = sorted({slide.centre for slide in slides if slide.centre})
    if len(names) < 2:
        return {}
    counted = range(truth.shape[1])[counted_classes(truth.shape[1], plan.targets.activation)]
    metrics: Metrics = {}
    for name in names[:_MOST_CENTRES]:
        rows = np.array([slide.centre == name for slide in slides])
        metrics[f"{CENTRE}{name} slides"] = int(rows.sum())
        own = {slide.case_id for slide in slides if slide.centre == name}
        metrics[f"{CENTRE}{name} cases"] = len(own)
        ones = np.ones((1, int(rows.sum())))
        areas = [
            float(auroc(truth[rows, place], probabilities[rows, place], ones)[0])
            for place in counted
            if truth[rows, place].any() and not truth[rows, place].all()
        ]
        if areas:
            metrics[f"{CENTRE}{name} auroc"] = float(np.mean(areas))
    return metrics


def centres_of(metrics: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """By centre its figures, from a head's ``metrics``."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.startswith(CENTRE) and isinstance(value, int | float):
            centre, _, figure = name.removeprefix(CENTRE).rpartition(" ")
            found.setdefault(centre, {})[figure] = value
    return found


def curve_of(metrics: Mapping[str, object]) -> list[dict[str, float]]:
    """The calibration curve of a head's ``metrics``: of each bin what was stated and found, with
    the ends of the latter's interval; empty if they have none."""
    parts = ("stated", "found", "low", "high")
    columns = [metrics.get(f"calibration_{part}") for part in parts]
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < len(parts):
        return []
    return [dict(zip(parts, row, strict=True)) for row in zip(*lists, strict=True)]


def _digest(slide: LabelledSlide, bags: BagStore, known: dict[str, str]) -> str:
    """Of the first features of a slide, and how many there are."""
    if slide.slide_id not in known:
        features = bags.read(slide.features).features
        whole = hashlib.sha256(f"{features.shape}".encode())
        whole.update(np.ascontiguousarray(features[:_HASHED_TILES]).tobytes())
        known[slide.slide_id] = whole.hexdigest()
    return known[slide.slide_id]
