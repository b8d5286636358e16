"""What the labels of a task mean to a head: one class a slide, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.labels import JOINT, LabelTable, listed, order_classes, spelled
from pathgene_rt.geometry import BoolArray
from pathgene_rt.heads.prediction import NO_CALL
from pathgene_rt.training.data.cohort import Cohort, LabelledSlide, select_cohort


@dataclass(frozen=True)
class Targets:
    """``classes`` in the order of the logits, and what ``LabelledSlide.label`` stands for: row
    ``label`` of ``rows``, float32 [labels, classes] of zeros and ones.

    One class a slide (softmax): the label is the class. Several (sigmoid): it numbers the
    combinations that the cohort holds.
    """

    classes: tuple[str, ...]
    activation: Activation
    rows: NDArray[np.float32]

    def tensor(self, slide: LabelledSlide) -> Tensor:
        """As :data:`~pathgene_rt.training.heads.base.BagLoss` takes it."""
        if self.activation == "softmax":
            return torch.tensor(slide.label)
        return torch.from_numpy(self.rows[slide.label])

    def truth(self, slides: Sequence[LabelledSlide]) -> BoolArray:
        """bool [slides, classes]."""
        truth: BoolArray = self.rows[[slide.label for slide in slides]] > 0
        return truth


def single_class(classes: Sequence[str]) -> Targets:
    """Targets of a task whose slides have one class each."""
    return Targets(tuple(classes), "softmax", np.eye(len(classes), dtype=np.float32))


def select_labelled(
    table: LabelTable,
    task: str,
    features: Path,
    classes: Sequence[str] = (),
    *,
    multi_label: bool = False,
) -> tuple[Cohort, Targets]:
    """:func:`~pathgene_rt.training.data.cohort.select_cohort`, and what its labels stand for.

    With ``multi_label`` a cell of the column holds classes joined by ";", or "none". ``classes``
    of the cohort are then its combinations, those of the targets the classes. Raises
    :class:`UsageError` as ``select_cohort`` does, also for classes that are not among ``classes``.
    """
    if not multi_label:
        cohort = select_cohort(table, task, features, classes)
        return cohort, single_class(cohort.classes)
    # Cells that say the same in another order are one combination.
    rows = tuple(
        replace(row, labels={**row.labels, task: JOINT.join(sorted(_parts(row.labels[task])))})
        if task in row.labels
        else row
        for row in table.rows
    )
    cohort = select_cohort(replace(table, rows=rows), task, features)
    members = [set(_parts(combination)) for combination in cohort.classes]
    members = [{spelled(name, classes) for name in member} for member in members]
    found = set().union(*members)
    if classes and not found <= set(classes):
        raise UsageError(
            f"{table.path}: column {task} holds {listed(sorted(found - set(classes)))}, which "
            f"is not among its classes {listed(classes)}"
        )
    order = tuple(classes) or order_classes(found)
    if len(order) < 2:
        raise UsageError(
            f"{table.path}: column {task} holds {len(order)} class besides {NO_CALL!r}; "
            "multi_label needs at least two, joined by ';'"
        )
    vectors = np.array([[name in member for name in order] for member in members], np.float32)
    return cohort, Targets(order, "sigmoid", vectors)


def strata(slides: Sequence[LabelledSlide], targets: Targets) -> list[int]:
    """What each slide counts as when cases are shared out: its class; of several classes the
    rarest, because that one is the hardest to share out; of none, the number of classes."""
    truth = targets.truth(slides)
    if targets.activation == "softmax":
        return [int(label) for label in truth.argmax(axis=1)]
    counts = truth.sum(axis=0)
    numbers = range(len(targets.classes))
    return [
        min((number for number in numbers if row[number]), key=counts.__getitem__, default=len(row))
        for row in truth
    ]


def _parts(cell: str) -> list[str]:
    names = [name.strip() for name in cell.split(JOINT)]
    return [name for name in names if name and name.casefold() != NO_CALL]
