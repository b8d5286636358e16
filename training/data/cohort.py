"""Cohorts: labelled slides with their features, and how their cases are shared out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.errors import FeatureFileError, UsageError
from pathgene_rt.evaluation.labels import LabelTable, listed, order_classes, spelled
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.left_out import usable_tiles
from pathgene_rt.heads.prediction import NO_CALL
from pathgene_rt.tables import find_id, hint
from pathgene_rt.training.data.feature_files import find_feature_files, read_bag


@dataclass(frozen=True)
class LabelledSlide:
    """A slide's features file and the index of its class; ``centre`` where the table says it."""

    slide_id: str
    case_id: str
    label: int
    features: Path
    centre: str = ""


@dataclass(frozen=True)
class Cohort:
    """The slides of one task; ``classes`` in the order of the logits."""

    task: str
    classes: tuple[str, ...]
    slides: tuple[LabelledSlide, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """No case is in more than one part. ``test`` may be empty."""

    train: tuple[LabelledSlide, ...]
    validation: tuple[LabelledSlide, ...]
    test: tuple[LabelledSlide, ...]


def select_cohort(
    table: LabelTable, task: str, features: Path, classes: Sequence[str] = ()
) -> Cohort:
    """The slides of ``table`` that have a label for ``task``, with their features files of the
    folder ``features`` (:func:`~pathgene_rt.training.data.feature_files.find_feature_files`).

    ``classes`` fixes classes and order, else they are those found, ordered by
    :func:`~pathgene_rt.evaluation.labels.order_classes`. Slides without a label, and features
    without a row, are left out with a note. Raises :class:`UsageError` if the column is missing, a
    labelled slide has no features file, a label is not among ``classes``, or only one class is
    there.
    """
    if task not in table.tasks:
        raise UsageError(
            f"{table.path} has no column {task}; its task columns are {listed(table.tasks)}"
        )
    available = find_feature_files(features)
    labelled = [row for row in table.rows if row.labels.get(task, NO_CALL).casefold() != NO_CALL]
    files = [find_id(row.slide_id, available) for row in labelled]
    unknown = [row.slide_id for row, file in zip(labelled, files, strict=True) if file is None]
    if unknown:
        tip = next(filter(None, (hint(name, available) for name in unknown)), "")
        raise UsageError(
            f"{len(unknown)} slides of {table.path} have no features in {features} "
            f"({listed(unknown)}{tip}); extract them or remove their rows"
        )
    names = [spelled(row.labels[task], classes) for row in labelled]
    found = set(names)
    if classes and not found <= set(classes):
        raise UsageError(
            f"{table.path}: column {task} holds {listed(sorted(found - set(classes)))}, which "
            f"is not among its classes {listed(classes)}"
        )
    order = tuple(classes) or order_classes(found)
    if len(found) < 2:
        raise UsageError(
            f"{table.path}: column {task} holds one class only ({listed(sorted(found))}); "
            "a head needs cases of at least two"
        )
    slides = tuple(
        LabelledSlide(file, row.case_id, order.index(name), available[file], row.centre)
        for row, name, file in zip(labelled, names, files, strict=True)
        if file is not None
    )
    notes = []
    if len(labelled) < len(table.rows):
        notes.append(f"{task}: {len(table.rows) - len(labelled)} slides have no label")
    unlisted = available.keys() - {find_id(row.slide_id, available) for row in table.rows}
    if unlisted:
        notes.append(f"{task}: {len(unlisted)} files in {features} have no row in the labels")
    return Cohort(task, order, slides, tuple(notes))


def split_cases(cohort: Cohort, *, validation: float, test: float, seed: int) -> Split:
    """Share out whole cases, class by class, so that each part has about the same mixture.

    A case with slides of several classes counts as the most frequent of them. Every part that is
    asked for gets at least one case of each class; raises :class:`UsageError` if there are too few.
    """
    random = np.random.default_rng(seed)
    parts = 2 + (test > 0)
    chosen: dict[str, str] = {}
    by_class = _cases_by_class(cohort)
    for label, name in enumerate(cohort.classes):
        cases = by_class[label]
        if len(cases) < parts:
            raise UsageError(
                f"task {cohort.task}: the class {name!r} has {len(cases)} cases, at least {parts} "
                "are needed, one for each part of the split; add cases or set data.test = 0"
            )
        shuffled = [cases[place] for place in random.permutation(len(cases))]
        held = min(max(1, round(test * len(cases))), len(cases) - 2) if test > 0 else 0
        watched = min(max(1, round(validation * len(cases))), len(cases) - held - 1)
        for place, case in enumerate(shuffled):
            if place < held:
                chosen[case] = "test"
            else:
                chosen[case] = "validation" if place < held + watched else "train"
    return Split(
        train=_members(cohort.slides, chosen, "train"),
        validation=_members(cohort.slides, chosen, "validation"),
        test=_members(cohort.slides, chosen, "test"),
    )


def _cases_by_class(cohort: Cohort) -> dict[int, list[str]]:
    labels: dict[str, list[int]] = {}
    for slide in cohort.slides:
        labels.setdefault(slide.case_id, []).append(slide.label)
    by_class: dict[int, list[str]] = {label: [] for label in range(len(cohort.classes))}
    for case in sorted(labels):
        counts = Counter(labels[case])
        by_class[max(counts, key=lambda label: (counts[label], label))].append(case)
    return by_class


def _members(
    slides: Iterable[LabelledSlide], chosen: dict[str, str], part: str
) -> tuple[LabelledSlide, ...]:
    return tuple(slide for slide in slides if chosen[slide.case_id] == part)


class BagStore:
    """Reads bags when they are needed and keeps those that fit into ``cache_bytes`` in memory.

    The first that fit are kept and not the latest used: an epoch goes through all bags, and each
    would displace one that is needed sooner. What does not fit is read at every use and belongs to
    the caller, so memory holds the cache and the bags in use, never the cohort.

    ``places`` is the folder of the coordinates of CLAM's .pt files, if it is not beside theirs.
    Tiles are left out as ``policy`` says, as the runtime does it. All
    bags must come from one encoder: the first that has another width or encoder hash is named by a
    :class:`FeatureFileError`.
    """

    def __init__(
        self, cache_bytes: int, places: Path | None = None, policy: TilePolicy | None = None
    ) -> None:
        self._left = cache_bytes
        self._policy = policy
        self._lost: dict[Path, float] = {}
        self._places = places
        self._bags: dict[Path, FeatureBag] = {}
        self._first: tuple[Path, int, str | None] | None = None

    def read(self, path: Path) -> FeatureBag:
        """The bag of ``path``. Raises FeatureFileError, also for what the file itself lacks, and
        BagError where it does not say which tiles are to be left out."""
        if path in self._bags:
            return self._bags[path]
        tiles = usable_tiles(read_bag(path, self._places), self._policy)
        bag = tiles.bag
        self._check(bag, path)
        if tiles.too_many:
            self._lost[path] = tiles.share
        size = bag.features.nbytes + bag.xy.nbytes
        if size <= self._left:
            self._bags[path] = bag
            self._left -= size
        return bag

    def excessive_loss(self, path: Path) -> float | None:
        """The share 0..1 of the tiles of ``path`` that would be left out, where the policy does not
        allow so many. Raises as :meth:`read`."""
        self.read(path)
        return self._lost.get(path)

    def _check(self, bag: FeatureBag, path: Path) -> None:
        width, encoder = bag.features.shape[1], bag.encoder_sha256
        if self._first is None:
            self._first = (path, width, encoder)
        first_path, first_width, first_encoder = self._first
        if width != first_width:
            raise FeatureFileError(
                f"{path} holds features of width {width}, {first_path.name} of {first_width}; "
                "extract all slides with one encoder"
            )
        if encoder != first_encoder:
            raise FeatureFileError(
                f"{path} was written by the encoder {_short(encoder)}, {first_path.name} by "
                f"{_short(first_encoder)}; extract all slides with one"
            )


def _short(encoder_sha256: str | None) -> str:
    return encoder_sha256[:12] if encoder_sha256 else "(unknown)"
