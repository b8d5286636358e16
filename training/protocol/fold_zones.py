"""A head's decision zones from the validation parts of its folds, and how they do on what tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.bundle.zones import DecisionZones
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.metrics import Floats, Metrics
from pathgene_rt.evaluation.zones import CaseScores, check_zones, fit_zones
from pathgene_rt.training.data.cohort import LabelledSlide
from pathgene_rt.training.data.targets import Targets
from pathgene_rt.training.protocol.plan import HeadPlan
from pathgene_rt.training.protocol.run_folder import FoldResult


@dataclass(frozen=True)
class FoldZones:
    """``zones`` of all validation cases, ``metrics`` of cases that chose none of them, ``notes``
    for the user."""

    zones: DecisionZones | None = None
    metrics: Metrics = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def hold(self, threshold: float) -> float:
        """``threshold``, moved between the cut-offs if it lies beyond them."""
        if self.zones is None:
            return threshold
        return min(max(threshold, self.zones.low), self.zones.high)


def zones_of_folds(
    plan: HeadPlan, folds: Sequence[FoldResult], calibration: TemperatureScaling
) -> FoldZones:
    """What ``plan`` asks for, nothing if it asks for no zones.

    The cases that test in a fold are judged by the cut-offs of all validation cases but them: in
    other folds they may watch the training. Raises UsageError.
    """
    config, name = plan.config.zones, plan.config.name
    if config is None:
        return FoldZones()
    slides = [slide for fold in folds for slide in fold.split.validation]
    logits = np.concatenate([fold.validation_logits for fold in folds])
    watched = case_scores(plan.targets, slides, calibration, logits)
    zones, notes = fit_zones(config, watched)
    checked: list[tuple[DecisionZones, CaseScores]] = []
    for fold in folds if zones is not None else ():
        tests = fold.split.test
        others = watched.without(slide.case_id for slide in tests)
        try:
            of_others, _ = fit_zones(config, others)
        except UsageError:
            of_others = None
        if tests and of_others is not None:
            tested = case_scores(plan.targets, tests, calibration, fold.test_logits)
            checked.append((of_others, tested))
    if zones is not None and len(checked) < len(folds):
        notes.append(
            f"decision zones: checked on the test cases of {len(checked)} of {len(folds)} splits; "
            "the others have none, or without them too few validation cases are left"
        )
    metrics = check_zones(checked) if checked else {}
    return FoldZones(zones, metrics, tuple(f"{name}: {note}" for note in notes))


def case_scores(
    targets: Targets,
    slides: Sequence[LabelledSlide],
    calibration: TemperatureScaling,
    logits: Floats,
) -> CaseScores:
    """Of ``slides``, whose ``logits`` are float64 [n, classes]."""
    return CaseScores.of(
        calibration.apply(logits)[:, -1].tolist(),
        targets.truth(slides)[:, -1].tolist(),
        [slide.case_id for slide in slides],
    )
