"""Splits: cases as wholes, classes in every part, and every given split that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.labels import LabelRow, LabelTable, read_labels
from pathgene_rt.training.data.cohort import Cohort, LabelledSlide, Split
from pathgene_rt.training.data.targets import Targets, select_labelled, single_class
from pathgene_rt.training.protocol.folds import PARTS, given_folds, make_folds

CLASSES = ("wild type", "mutated")


def cohort(labels: list[int], slides_a_case: int = 2) -> Cohort:
    """One case a label, each with so many slides."""
    slides = tuple(
        LabelledSlide(f"s{case}_{slide}", f"c{case}", label, Path(f"s{case}_{slide}.h5"))
        for case, label in enumerate(labels)
        for slide in range(slides_a_case)
    )
    return Cohort("EGFR", CLASSES, slides, ())


def folded(labels: list[int], folds: int, *, seed: int = 0) -> tuple[Split, ...]:
    return make_folds(
        cohort(labels), single_class(CLASSES), folds=folds, validation=0.2, test=0.2, seed=seed
    )


def cases(split: Split, part: str) -> set[str]:
    return {slide.case_id for slide in getattr(split, part)}


def test_every_case_tests_once_and_is_in_one_part() -> None:
    labels = [0] * 17 + [1] * 6
    splits = folded(labels, 5)
    tested = [case for split in splits for case in cases(split, "test")]
    assert sorted(tested) == sorted(f"c{case}" for case in range(23))
    for split in splits:
        parts = [cases(split, part) for part in PARTS]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 23
        for part in PARTS:
            assert {slide.label for slide in getattr(split, part)} == {0, 1}
    assert {len(cases(split, "test")) for split in splits} <= {4, 5}
    mutated = [sum(slide.label for slide in split.test) for split in splits]
    assert max(mutated) - min(mutated) <= 2  # a case of two slides


def test_same_seed_same_folds_other_seed_others() -> None:
    labels = [0, 1] * 15
    assert folded(labels, 3) == folded(labels, 3)
    assert folded(labels, 3) != folded(labels, 3, seed=1)


@pytest.mark.parametrize("folds", [0, 1])
def test_without_folds_there_is_one_split(folds: int) -> None:
    (split,) = folded([0, 1] * 10, folds)
    assert [len(cases(split, part)) for part in PARTS] == [12, 4, 4]


def test_a_fold_without_a_class_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"task EGFR: fold \d has no slide of the class 'mutated' in its test part"
    ):
        folded([0] * 14 + [1] * 2, 5)
    with pytest.raises(UsageError, match=r"class 'mutated' in its (train|validation) part"):
        folded([0] * 10 + [1] * 2, 2)


def given(parts: dict[str, str], labels: list[int] | None = None) -> tuple[Split, ...]:
    """The split that gives each case's slides ``parts`` by slide id, or by case id."""
    chosen = cohort(labels or [0, 1] * 6)
    by_slide = {
        slide.slide_id: parts.get(slide.slide_id, parts.get(slide.case_id, ""))
        for slide in chosen.slides
    }
    return given_folds(chosen, single_class(CLASSES), by_slide, validation=0.2, seed=0)


def test_a_given_split_is_kept() -> None:
    names = ["train"] * 4 + ["val"] * 4 + ["Test"] * 4
    (split,) = given({f"c{case}": name for case, name in enumerate(names)})
    assert [cases(split, part) for part in PARTS] == [
        {f"c{case}" for case in range(start, start + 4)} for start in (0, 4, 8)
    ]


def test_given_without_validation_takes_it_from_training() -> None:
    (split,) = given({f"c{case}": "train" if case < 8 else "test" for case in range(12)})
    assert cases(split, "test") == {"c8", "c9", "c10", "c11"}
    assert len(cases(split, "validation")) == 2
    assert not cases(split, "validation") & cases(split, "train")


def test_given_folds_test_in_turn() -> None:
    splits = given({f"c{case}": str(case // 4) for case in range(12)})
    assert [cases(split, "test") for split in splits] == [
        {f"c{case}" for case in range(start, start + 4)} for start in (0, 4, 8)
    ]


ALL = {f"c{case}": str(case // 4) for case in range(12)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({**ALL, "s3_0": "0", "s3_1": "1"}, r"the case c3 is on both sides of the split \(0 and 1"),
        ({**ALL, "c3": ""}, "the slide s3_0 has '' as its part of the split"),
        ({**ALL, "c3": "train"}, "the slide s0_0 has '0' as its part of the split"),
        (dict.fromkeys(ALL, "0"), "all slides are in fold 0; give at least two"),
        (
            {case: str(int(case[1:]) % 2) for case in ALL},
            "fold 0 has no slide of the class 'mutated' in its test part",
        ),
        (
            {case: "test" if case == "c1" else "train" for case in ALL},
            "the given split has no slide of the class 'wild type' in its test part",
        ),
    ],
)
def test_refuses_given_splits_that_prove_nothing(parts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given(parts)


def test_the_column_of_a_split_is_no_task(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,EGFR,Fold\na,1,0\nb,0,3\n")
    table = read_labels(path, "x", "Fold")
    assert table.tasks == ("EGFR",)
    assert [row.split for row in table.rows] == ["0", "3"]
    assert not any("Fold" in note for note in table.notes)
    with pytest.raises(UsageError, match="has no column part for the split"):
        read_labels(path, "x", "part")


def several(
    tmp_path: Path, cells: list[str], classes: tuple[str, ...] = ()
) -> tuple[Cohort, Targets]:
    for number in range(len(cells)):
        (tmp_path / f"s{number}.h5").touch()
    rows = tuple(LabelRow(f"s{n}", f"c{n}", {"driver": cell}) for n, cell in enumerate(cells))
    table = LabelTable(Path("labels.csv"), ("driver",), rows, ())
    return select_labelled(table, "driver", tmp_path, classes, multi_label=True)


def test_slides_of_several_classes(tmp_path: Path) -> None:
    cells = ["KRAS; EGFR", "EGFR;KRAS", "none", "EGFR", "TP53"]
    chosen, targets = several(tmp_path, cells)
    assert (targets.classes, targets.activation) == (("EGFR", "KRAS", "TP53"), "sigmoid")
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert targets.truth(chosen.slides).tolist() == [[bool(x) for x in row] for row in expected]
    assert [targets.tensor(slide).tolist() for slide in chosen.slides] == expected
    with pytest.raises(UsageError, match="holds TP53, which is not among its classes"):
        several(tmp_path, cells, ("EGFR", "KRAS"))
    with pytest.raises(UsageError, match="holds 1 class besides 'none'"):
        several(tmp_path, ["EGFR", "none"])


@pytest.mark.parametrize("folds", [0, 4])
def test_combinations_that_are_rare_do_not_stop_a_split(tmp_path: Path, folds: int) -> None:
    cells = ["none"] * 10 + ["EGFR"] * 8 + ["TP53"] * 8 + ["EGFR;TP53"]
    chosen, targets = several(tmp_path, cells)
    splits = make_folds(chosen, targets, folds=folds, validation=0.3, test=0.3, seed=0)
    for split in splits:
        for part in PARTS:
            assert targets.truth(getattr(split, part)).any(axis=0).all()
