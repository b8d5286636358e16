"""Which case trains, watches the training, or tests: shared out here, or given by the user.

Cases are shared out whole and class by class; no case is in more than one part of a split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pathgene_rt.errors import UsageError
from pathgene_rt.training.data.cohort import Cohort, LabelledSlide, Split, split_cases
from pathgene_rt.training.data.targets import Targets, strata

PARTS = ("train", "validation", "test")
_PART_NAMES = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}
_PART_NAMES["validation"] = "validation"


def make_folds(
    cohort: Cohort, targets: Targets, *, folds: int, validation: float, test: float, seed: int
) -> tuple[Split, ...]:
    """``folds`` splits in whose test parts every case is exactly once; 0 or 1: a single one, with
    the share ``test`` of the cases.

    ``validation`` is the share of the cases that watch the training, in each split anew, of those
    that do not test. Raises :class:`UsageError` naming fold and class if a part lacks one.
    """
    if folds < 2:
        split = _single(cohort, targets, validation, test, seed)
        _require_classes({"the split": split}, targets, cohort.task)
        return (split,)
    random = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for cases in _cases_by_stratum(cohort.slides, targets).values():
        # Dealing goes on where the last class ended, so that folds are of one size.
        for place in random.permutation(len(cases)):
            fold_of[cases[place]] = len(fold_of) % folds + 1
    return _by_fold(cohort, targets, fold_of, list(range(1, folds + 1)), validation, seed)


def given_folds(
    cohort: Cohort, targets: Targets, given: Mapping[str, str], *, validation: float, seed: int
) -> tuple[Split, ...]:
    """The split that the user gives: by slide id a fold's number, each of which tests in turn, or
    train, validation (or val) and test.

    Where no slide is for validation, the share ``validation`` of the training cases is taken.
    Raises :class:`UsageError` naming the slide that has no part or an unknown one, the case that is
    on both sides, or the fold and class where a part lacks one.
    """
    parts = {slide.slide_id: given.get(slide.slide_id, "") for slide in cohort.slides}
    numbered = all(re.fullmatch(r"\d+", part) for part in parts.values() if part)
    for slide_id, part in parts.items():
        if not part or not (numbered or part.casefold() in _PART_NAMES):
            raise UsageError(
                f"task {cohort.task}: the slide {slide_id} has {part!r} as its part of the split; "
                "give every slide a fold's number, or train, validation or test"
            )
    part_of: dict[str, str] = {}
    for slide in cohort.slides:
        part = parts[slide.slide_id]
        part = str(int(part)) if numbered else _PART_NAMES[part.casefold()]
        other = part_of.setdefault(slide.case_id, part)
        if other != part:
            raise UsageError(
                f"task {cohort.task}: the case {slide.case_id} is on both sides of the split "
                f"({other} and {part}); move its slides to one, or leave the split to train"
            )
    if numbered:
        fold_of = {case: int(part) for case, part in part_of.items()}
        numbers = sorted(set(fold_of.values()))
        if len(numbers) < 2:
            raise UsageError(
                f"task {cohort.task}: all slides are in fold {numbers[0]}; give at least two folds"
            )
        return _by_fold(cohort, targets, fold_of, numbers, validation, seed)
    if "validation" not in part_of.values():
        rest = [slide for slide in cohort.slides if part_of[slide.case_id] == "train"]
        for case in _watchers(rest, targets, validation, np.random.default_rng(seed)):
            part_of[case] = "validation"
    split = _split(cohort.slides, part_of)
    _require_classes({"the given split": split}, targets, cohort.task)
    return (split,)


def _single(cohort: Cohort, targets: Targets, validation: float, test: float, seed: int) -> Split:
    kinds = strata(cohort.slides, targets)
    names = [*targets.classes, "none of them"]
    used = sorted(set(kinds))
    if targets.activation == "softmax":
        used = list(range(len(targets.classes)))
    shared_out = replace(
        cohort,
        classes=tuple(names[kind] for kind in used),
        slides=tuple(
            replace(slide, label=used.index(kind))
            for slide, kind in zip(cohort.slides, kinds, strict=True)
        ),
    )
    split = split_cases(shared_out, validation=validation, test=test, seed=seed)
    part_of = {slide.case_id: part for part in PARTS for slide in getattr(split, part)}
    return _split(cohort.slides, part_of)


def _by_fold(
    cohort: Cohort,
    targets: Targets,
    fold_of: Mapping[str, int],
    numbers: Sequence[int],
    validation: float,
    seed: int,
) -> tuple[Split, ...]:
    splits = {}
    for number in numbers:
        part_of = {case: "test" if fold == number else "train" for case, fold in fold_of.items()}
        rest = [slide for slide in cohort.slides if part_of[slide.case_id] == "train"]
        random = np.random.default_rng((seed, number))
        for case in _watchers(rest, targets, validation, random):
            part_of[case] = "validation"
        splits[f"fold {number}"] = _split(cohort.slides, part_of)
    _require_classes(splits, targets, cohort.task)
    return tuple(splits.values())


def _watchers(
    slides: Sequence[LabelledSlide],
    targets: Targets,
    share: float,
    random: np.random.Generator,
) -> list[str]:
    """The cases for validation: of each class its share, at least one, but never all."""
    chosen: list[str] = []
    for cases in _cases_by_stratum(slides, targets).values():
        count = min(max(1, round(share * len(cases))), len(cases) - 1)
        chosen += [cases[place] for place in random.permutation(len(cases))[:count]]
    return chosen


def _cases_by_stratum(slides: Sequence[LabelledSlide], targets: Targets) -> dict[int, list[str]]:
    """Case ids in order; a case with slides of several strata counts as the most frequent."""
    kinds: dict[str, Counter[int]] = {}
    for slide, kind in zip(slides, strata(slides, targets), strict=True):
        kinds.setdefault(slide.case_id, Counter())[kind] += 1
    cases: dict[int, list[str]] = {}
    for case in sorted(kinds):
        counts = kinds[case]
        cases.setdefault(max(counts, key=lambda kind: (counts[kind], kind)), []).append(case)
    return dict(sorted(cases.items()))


def _split(slides: Sequence[LabelledSlide], part_of: Mapping[str, str]) -> Split:
    members = {
        part: tuple(slide for slide in slides if part_of[slide.case_id] == part) for part in PARTS
    }
    return Split(**members)


def _require_classes(splits: Mapping[str, Split], targets: Targets, task: str) -> None:
    """Test parts are looked at first: what they lack is the cause of what others lack."""
    for part in reversed(PARTS):
        for where, split in splits.items():
            slides = getattr(split, part)
            if slides or part != "test":
                _require_class(slides, targets, f"task {task}: {where}", part)


def _require_class(
    slides: Sequence[LabelledSlide], targets: Targets, where: str, part: str
) -> None:
    truth = targets.truth(slides) if slides else np.zeros((1, len(targets.classes)), np.bool_)
    for number, name in enumerate(targets.classes):
        lacks = "" if truth[:, number].any() else "no slide of"
        if targets.activation == "sigmoid" and truth[:, number].all():
            lacks = "no slide without"
        if lacks:
            raise UsageError(
                f"{where} has {lacks} the class {name!r} in its {part} part; "
                "add cases, take fewer folds, or merge classes"
            )
