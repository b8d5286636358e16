"""One head over its folds: trained, calibrated on what validated, judged on what tested.

After a cross-validation the head is trained once more on all cases, for the mean number of epochs
that its folds took to their best: those weights are exported, with the temperature and threshold
of the folds' validation slides pooled, and the figures of their test slides. With a single split
the weights are those of its best epoch. An external cohort judges the exported weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.calibration import Activation, TemperatureScaling
from pathgene_rt.bundle.spec import Calibration, Task
from pathgene_rt.bundle.zones import DecisionZones
from pathgene_rt.evaluation.calibration import fit_calibration, fit_threshold
from pathgene_rt.evaluation.metrics import Floats, Metrics, evaluate
from pathgene_rt.evaluation.zones import check_zones
from pathgene_rt.geometry import BoolArray
from pathgene_rt.training.checkpoint import HeadCheckpoint, load_head, save_head
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide, Split
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.loop import (
    DivergedError,
    EpochProgress,
    History,
    PrivilegedTable,
    fit,
    logits_of,
    refit,
)
from pathgene_rt.training.protocol.disclosure import disclosed
from pathgene_rt.training.protocol.fold_zones import case_scores, zones_of_folds
from pathgene_rt.training.protocol.plan import HeadPlan
from pathgene_rt.training.protocol.run_folder import FinalWeights, FoldResult, RunFolder, SavedFolds

TrainProgress = Callable[[str, int, int], None]
"""Called with (what is trained, epochs done, epochs at most) after each epoch."""


@dataclass(frozen=True)
class TrainedHead:
    """A head that was written to ``file``, for the ``column`` of the labels, on features by the
    ``encoder`` of that name where the configuration has several.

    ``task.metrics["part"]`` says on which slides its figures were taken: "test folds", "test", or
    "validation" (which chose the weights, so they flatter). ``final`` are the exported weights.
    ``notes`` are what the user should know of its decision zones.
    """

    name: str
    architecture: str
    file: Path
    classes: tuple[str, ...]
    activation: Activation
    task: Task
    folds: tuple[FoldResult, ...]
    fold_metrics: tuple[Metrics, ...]
    final: FinalWeights
    parameters: int
    column: str
    encoder: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> Metrics:
        return self.task.metrics

    @property
    def seconds(self) -> float:
        """Wall time of all that was trained for it."""
        return sum(fold.seconds for fold in self.folds) + self.final.seconds


def train_head(
    plan: HeadPlan,
    bags: BagStore,
    folder: RunFolder,
    saved: SavedFolds,
    progress: TrainProgress | None = None,
) -> TrainedHead:
    """Train ``plan`` and write its checkpoint; what is in ``saved`` is kept.

    Raises :class:`~pathgene_rt.training.loop.DivergedError` naming slide and fold, after the best
    weights until then are written to <name>.diverged.pt, and what ``fit`` raises.
    """
    name, count = plan.config.name, len(plan.folds)
    trainer = _Trainer(plan, bags, folder, progress)
    final = saved.read_final() if folder.checkpoint(name).exists() else None
    head: Head | None = None
    folds: list[FoldResult] = []
    for number, split in enumerate(plan.folds, 1):
        # A single split's weights are the checkpoint's: without that its logits are of no use.
        fold = saved.read(number, split) if final or count > 1 else None
        if fold is None:
            label = f"{name} fold {number}/{count}" if count > 1 else name
            head, fold = trainer.fold(split, label)
            saved.write(number, fold)
        folds.append(fold)
    threshold, calibration = _calibrate(plan, folds)
    zones = zones_of_folds(plan, folds, calibration)
    threshold = zones.hold(threshold)
    fold_metrics = tuple(_figures(plan, [fold], threshold, calibration) for fold in folds)
    if final is not None:
        task = load_head(folder.checkpoint(name)).task
    else:
        if count > 1:
            head, final = trainer.all_cases(folds, f"{name} on all cases")
        else:
            final = FinalWeights(folds[0].history, 0.0)
        assert head is not None
        metrics = _figures(plan, folds, threshold, calibration)
        metrics["weights"] = "trained on all cases" if count > 1 else "of the best epoch"
        if count > 1:
            metrics["auroc_folds"] = [float(str(figures["auroc"])) for figures in fold_metrics]
        metrics |= _disclosed(plan, folds, calibration, bags)
        metrics |= zones.metrics
        metrics |= _external_figures(plan, head, bags, threshold, calibration, zones.zones)
        task = _task(plan, threshold, calibration, metrics, zones.zones)
        trainer.save(folder.checkpoint(name), head, task)
        saved.write_final(final)
    return TrainedHead(
        name,
        plan.config.architecture,
        folder.checkpoint(name),
        plan.targets.classes,
        plan.targets.activation,
        task,
        tuple(folds),
        fold_metrics,
        final,
        sum(weight.numel() for weight in plan.create().parameters()),
        plan.config.task,
        plan.config.encoder,
        zones.notes,
    )


class _Trainer:
    """Trains one head's folds, and sees to its weights where that fails."""

    def __init__(
        self, plan: HeadPlan, bags: BagStore, folder: RunFolder, progress: TrainProgress | None
    ) -> None:
        self._plan, self._bags, self._folder, self._progress = plan, bags, folder, progress

    def fold(self, split: Split, label: str) -> tuple[Head, FoldResult]:
        plan, bags = self._plan, self._bags
        began = time.monotonic()

        def run(head: Head) -> History:
            return fit(
                head,
                split.train,
                split.validation,
                bags,
                plan.training,
                self._epochs(label),
                targets=plan.targets,
                privileged=self._privileged(split.train),
            )

        head, history = self._trained(run, label)
        watched = logits_of(head, split.validation, bags)
        tested = logits_of(head, split.test, bags)
        return head, FoldResult(split, history, watched, tested, time.monotonic() - began)

    def all_cases(self, folds: Sequence[FoldResult], label: str) -> tuple[Head, FinalWeights]:
        split = self._plan.folds[0]
        slides = (*split.train, *split.validation, *split.test)
        began = time.monotonic()

        def run(head: Head) -> History:
            return refit(
                head,
                slides,
                self._bags,
                self._plan.training,
                [fold.history for fold in folds],
                self._epochs(label),
                targets=self._plan.targets,
                privileged=self._privileged(slides),
            )

        head, history = self._trained(run, label)
        return head, FinalWeights(history, time.monotonic() - began)

    def save(self, path: Path, head: Head, task: Task) -> None:
        plan = self._plan
        save_head(
            path,
            HeadCheckpoint(
                head,
                plan.targets.classes,
                task,
                plan.encoder_sha256,
                plan.targets.activation,
                plan.quality,
            ),
        )

    def _trained(self, run: Callable[[Head], History], label: str) -> tuple[Head, History]:
        head = self._plan.create()
        try:
            return head, run(head)
        except DivergedError as error:
            kept = ""
            if error.history is not None:
                file = self._folder.diverged(self._plan.config.name)
                epoch = error.history.best + 1
                metrics: Metrics = {"part": "none", "weights": f"of epoch {epoch}, then diverged"}
                uncalibrated = TemperatureScaling(self._plan.targets.activation)
                self.save(file, head, _task(self._plan, 0.5, uncalibrated, metrics))
                kept = f"; the weights of epoch {epoch} are in {file}"
            raise DivergedError(f"{label}: {error}{kept}", error.slide_id) from error

    def _epochs(self, label: str) -> EpochProgress | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total: progress(label, done, total)

    def _privileged(self, slides: Sequence[LabelledSlide]) -> PrivilegedTable | None:
        table = self._plan.privileged
        if table is None:
            return None
        return table.standardised(
            name for slide in slides for name in (slide.slide_id, slide.case_id)
        )


def _calibrate(plan: HeadPlan, folds: Sequence[FoldResult]) -> tuple[float, TemperatureScaling]:
    """(threshold, calibration) of the pooled validation slides."""
    logits = np.concatenate([fold.validation_logits for fold in folds])
    targets = plan.targets
    truth = np.concatenate([targets.truth(fold.split.validation) for fold in folds])
    calibration = TemperatureScaling(targets.activation)
    if plan.training.calibrate:
        calibration = fit_calibration(logits, truth, targets.activation)
    threshold = plan.config.threshold
    if isinstance(threshold, str):
        threshold = fit_threshold(calibration.apply(logits), truth, targets.activation, threshold)
    return threshold, calibration


def _figures(
    plan: HeadPlan, folds: Sequence[FoldResult], threshold: float, calibration: TemperatureScaling
) -> Metrics:
    """Figures of the test slides of ``folds`` pooled, or of validation where nothing tests."""
    tests = bool(plan.folds[0].test)
    slides = [
        slide for fold in folds for slide in (fold.split.test if tests else fold.split.validation)
    ]
    logits = [fold.test_logits if tests else fold.validation_logits for fold in folds]
    truth = plan.targets.truth(slides)
    metrics = _evaluate(plan, slides, truth, np.concatenate(logits), threshold, calibration)
    metrics["part"] = ("test folds" if len(folds) > 1 else "test") if tests else "validation"
    return metrics


def _disclosed(
    plan: HeadPlan, folds: Sequence[FoldResult], calibration: TemperatureScaling, bags: BagStore
) -> Metrics:
    """Of the slides that :func:`_figures` are of."""
    tests = bool(plan.folds[0].test)
    slides = [
        slide for fold in folds for slide in (fold.split.test if tests else fold.split.validation)
    ]
    logits = [fold.test_logits if tests else fold.validation_logits for fold in folds]
    probabilities = calibration.apply(np.concatenate(logits))
    return disclosed(plan, slides, plan.targets.truth(slides), probabilities, bags)


def _external_figures(
    plan: HeadPlan,
    head: Head,
    bags: BagStore,
    threshold: float,
    calibration: TemperatureScaling,
    zones: DecisionZones | None,
) -> Metrics:
    external = plan.external
    if external is None:
        return {}
    logits = logits_of(head, external.slides, bags)
    truth = external.targets.truth(external.slides)
    figures = _evaluate(plan, external.slides, truth, logits, threshold, calibration)
    if zones is not None:
        cases = case_scores(external.targets, external.slides, calibration, logits)
        figures |= check_zones([(zones, cases)])
    return {f"external_{name}": value for name, value in figures.items()}


def _evaluate(
    plan: HeadPlan,
    slides: Sequence[LabelledSlide],
    truth: BoolArray,
    logits: Floats,
    threshold: float,
    calibration: TemperatureScaling,
) -> Metrics:
    return evaluate(
        calibration.apply(logits),
        truth,
        [slide.case_id for slide in slides],
        activation=plan.targets.activation,
        threshold=threshold,
        resamples=plan.training.bootstrap,
        seed=plan.training.seed,
    )


def _task(
    plan: HeadPlan,
    threshold: float,
    calibration: TemperatureScaling,
    metrics: Metrics,
    zones: DecisionZones | None = None,
) -> Task:
    return Task(
        kind=plan.config.kind,
        gene=plan.config.gene,
        threshold=threshold,
        calibration=Calibration(temperature=calibration.temperature),
        zones=zones,
        metrics=metrics,
    )
