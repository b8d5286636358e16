"""Labels, cohorts and splits: what is read, and every table that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt.errors import FeatureFileError, UsageError
from pathgene_rt.evaluation.labels import order_classes, read_labels
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.training.data.cohort import (
    BagStore,
    Cohort,
    LabelledSlide,
    select_cohort,
    split_cases,
)

TCGA = r"TCGA-\w\w-\w{4}"


def bag(slide_id: str, *, n: int = 3, d: int = 4, encoder: str | None = None) -> FeatureBag:
    return FeatureBag(
        slide_id=slide_id,
        features=np.full((n, d), 0.5, np.float32),
        xy=np.array([(256 * place, 0) for place in range(n)], np.int32),
        tile_px=256,
        mpp=0.5,
        span_px=256.0,
        encoder_sha256=encoder,
    )


def labels_file(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def features_folder(tmp_path: Path, slides: Sequence[str]) -> Path:
    folder = tmp_path / "features"
    folder.mkdir()
    for slide in slides:
        write_features(folder / f"{slide}.h5", bag(slide))
    return folder


def test_reads_slides_cases_and_tasks(tmp_path: Path) -> None:
    text = "slide_id, case_id,EGFR,TP53\ns1.svs,c1,mutated,\ns2,c1, wild type ,NA\n"
    table = read_labels(labels_file(tmp_path, text), TCGA)
    assert table.tasks == ("EGFR", "TP53")
    assert [(row.slide_id, row.case_id) for row in table.rows] == [("s1", "c1"), ("s2", "c1")]
    assert [row.labels for row in table.rows] == [{"EGFR": "mutated"}, {"EGFR": "wild type"}]
    assert table.notes == ()


def test_reads_pathgenes_tables(tmp_path: Path) -> None:
    text = (
        "path,label,Fold\r\n"
        ".\\LUAD\\pt_files\\TCGA-05-4249-01Z-00-DX1.9fce0297-cc19.pt,0,0\r\n"
        "./LUAD/pt_files/TCGA-05-4249-01Z-00-DX2.aa.pt,0,3\r\n"
        "1397456-2-HE,1,4\r\n"
    )
    table = read_labels(labels_file(tmp_path, text, "utf-8-sig"), TCGA)
    assert table.tasks == ("label",)
    assert [row.slide_id for row in table.rows] == [
        "TCGA-05-4249-01Z-00-DX1.9fce0297-cc19",
        "TCGA-05-4249-01Z-00-DX2.aa",
        "1397456-2-HE",
    ]
    assert [row.case_id for row in table.rows] == ["TCGA-05-4249", "TCGA-05-4249", "1397456-2-HE"]
    fold, alone = table.notes
    assert "Fold is not used" in fold
    assert "1 of 3 slides have no known case" in alone


def test_case_pattern_with_a_group(tmp_path: Path) -> None:
    path = labels_file(tmp_path, "path,label\n1397456-2-HE,1\n1397456-3-HE,1\n")
    assert {row.case_id for row in read_labels(path, r"(\d+)-").rows} == {"1397456"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample,EGFR\na,1\n", r"has no column slide_id or path; its columns are sample, EGFR"),
        ("1206273-2-HE,0,Fold\n1221751-1-HE,0,3\n", "has no column slide_id or path"),
        ("", "has no column slide_id or path; its columns are none"),
        ("slide_id,case_id\na,b\n", "has no task column"),
        ("slide_id,EGFR\n", "has no row"),
        ("slide_id,EGFR\na,1\na,0\n", "lists the slide a twice"),
        ("slide_id,EGFR\na.svs,1\nfolder/a.h5,0\n", "lists the slide a twice"),
        ("slide_id,EGFR\n,1\n", "line 2: the column slide_id is empty"),
        ("slide_id,case_id,EGFR\na,c,1\nb,,0\n", "line 3: slide b has no case_id"),
    ],
)
def test_refuses_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(labels_file(tmp_path, text), TCGA)


def test_refuses_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"slide_id,EGFR\n\xff\xfe\x00,1\n")
    with pytest.raises(UsageError, match="no CSV in UTF-8"):
        read_labels(path, TCGA)
    with pytest.raises(UsageError, match="cannot read the labels"):
        read_labels(tmp_path / "none.csv", TCGA)


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ({"mutated", "wild type"}, ("wild type", "mutated")),
        ({"MUT", "WT"}, ("WT", "MUT")),
        ({"high", "low"}, ("low", "high")),
        ({"10", "9", "-1"}, ("-1", "9", "10")),
        ({"exon 21", "exon 19"}, ("exon 19", "exon 21")),
    ],
)
def test_the_positive_class_comes_last(found: set[str], order: tuple[str, ...]) -> None:
    assert order_classes(found) == order


def test_selects_labelled_slides_and_notes_the_rest(tmp_path: Path) -> None:
    folder = features_folder(tmp_path, ["a", "b", "c", "d"])
    text = "slide_id,case_id,EGFR\na,1,mutated\nb,2,wild type\nc,3,\n"
    table = read_labels(labels_file(tmp_path, text), TCGA)
    cohort = select_cohort(table, "EGFR", folder)
    assert cohort.classes == ("wild type", "mutated")
    assert [(slide.slide_id, slide.label) for slide in cohort.slides] == [("a", 1), ("b", 0)]
    assert "1 slides have no label" in cohort.notes[0]
    assert "1 files" in cohort.notes[1]


@pytest.mark.parametrize(
    ("task", "classes", "text", "message"),
    [
        ("KRAS", (), "a,1,x\nb,2,y\n", "has no column KRAS; its task columns are EGFR"),
        ("EGFR", (), "a,1,x\nb,2,y\nghost,3,x\n", r"1 slides of .* no features .* \(ghost\)"),
        ("EGFR", (), "a,1,x\nb,2,x\n", r"one class only \(x\)"),
        ("EGFR", (), "a,1,\nb,2,\n", r"one class only \(none\)"),
        ("EGFR", ("x", "z"), "a,1,x\nb,2,y\n", "holds y, which is not among its classes x, z"),
    ],
)
def test_refuses_cohorts_that_cannot_be_trained_on(
    tmp_path: Path, task: str, classes: tuple[str, ...], text: str, message: str
) -> None:
    folder = features_folder(tmp_path, ["a", "b"])
    table = read_labels(labels_file(tmp_path, "slide_id,case_id,EGFR\n" + text), TCGA)
    with pytest.raises(UsageError, match=message) as caught:
        select_cohort(table, task, folder, classes)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_classes_and_missing_values_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """Cells in German Excel's way; classes in three programs' ways."""
    folder = features_folder(tmp_path, list("abcdefgh"))
    text = (
        "\ufeffSlide_ID;CASE_ID;EGFR;Mutated\r\n"
        "a.svs;1;1;Mutated\r\nb.czi;2;1.0;mutated\r\nc;3; 0;wild type\r\nd;4;0.0;mutated\r\n"
        ";;;\r\ne;5;#N/A;<NA>\r\nf;6;None;unknown\r\ng;7;-;.\r\nh;8;NULL;?\r\n"
    )
    table = read_labels(labels_file(tmp_path, text), TCGA)
    assert table.tasks == ("EGFR", "Mutated")
    for task, classes in (("EGFR", ("0", "1")), ("Mutated", ("wild type", "mutated"))):
        cohort = select_cohort(table, task, folder)
        assert cohort.classes == classes
        assert [slide.slide_id for slide in cohort.slides] == ["a", "b", "c", "d"]
        assert "4 slides have no label" in cohort.notes[0]
        merged = f"column {task}: "
        assert any(merged in note and "count as one class" in note for note in table.notes)
    named = select_cohort(table, "Mutated", folder, ("Wild Type", "MUTATED"))
    assert named.classes == ("Wild Type", "MUTATED")
    assert [slide.label for slide in named.slides] == [1, 1, 0, 1]


def test_slides_of_ome_tiff_and_ids_that_a_spreadsheet_changed(tmp_path: Path) -> None:
    folder = features_folder(tmp_path, ["a.ome", "b", "0012"])
    text = "slide_id,EGFR\na.ome.tiff,x\nb.scn,y\n"
    cohort = select_cohort(read_labels(labels_file(tmp_path, text), TCGA), "EGFR", folder)
    assert [slide.slide_id for slide in cohort.slides] == ["a.ome", "b"]
    table = read_labels(labels_file(tmp_path, text + "12.0,x\n"), TCGA)
    with pytest.raises(UsageError, match=r"1 slides .*12\.0; is it 0012, of which a spreadsheet"):
        select_cohort(table, "EGFR", folder)


def test_one_patient_written_in_two_ways_is_not_on_two_sides(tmp_path: Path) -> None:
    text = "slide_id,case_id,EGFR\na,P1,x\nb,p1,y\n"
    with pytest.raises(UsageError, match="cases P1 and p1 differ in upper and lower case only"):
        read_labels(labels_file(tmp_path, text), TCGA)


def test_names_a_features_folder_that_is_not_there(tmp_path: Path) -> None:
    table = read_labels(labels_file(tmp_path, "slide_id,EGFR\na,1\n"), TCGA)
    with pytest.raises(UsageError, match="there is no features folder"):
        select_cohort(table, "EGFR", tmp_path / "none")


def _cohort(cases: Sequence[tuple[int, Sequence[int]]], n_classes: int = 2) -> Cohort:
    """A cohort from (case, labels of its slides)."""
    slides = [
        LabelledSlide(f"{case}-{place}", str(case), label, Path(f"{case}-{place}.h5"))
        for case, labels in cases
        for place, label in enumerate(labels)
    ]
    names = tuple("abcdefgh"[:n_classes])
    return Cohort("task", names, tuple(slides), ())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=0, max_size=30),
    st.floats(0.05, 0.6),
    st.sampled_from([0.0, 0.1, 0.35]),
    st.integers(0, 1000),
)
def test_no_case_is_ever_on_two_sides(
    mixed: list[list[int]], validation: float, test: float, seed: int
) -> None:
    pure = [(1000 + place, [place % 2]) for place in range(6)]
    cohort = _cohort([*enumerate(mixed), *pure])
    split = split_cases(cohort, validation=validation, test=test, seed=seed)
    parts = [split.train, split.validation, split.test]
    cases = [{slide.case_id for slide in part} for part in parts]
    assert not (cases[0] & cases[1] or cases[0] & cases[2] or cases[1] & cases[2])
    assert sorted(slide.slide_id for part in parts for slide in part) == sorted(
        slide.slide_id for slide in cohort.slides
    )
    for part in parts[: 2 + (test > 0)]:
        assert {slide.label for slide in part} == {0, 1}
    assert split == split_cases(cohort, validation=validation, test=test, seed=seed)


def test_parts_have_the_mixture_that_was_asked_for() -> None:
    cohort = _cohort([(case, [int(case < 25)]) for case in range(100)])
    split = split_cases(cohort, validation=0.2, test=0.2, seed=7)
    for part, positive, negative in [
        (split.train, 15, 45),
        (split.validation, 5, 15),
        (split.test, 5, 15),
    ]:
        labels = [slide.label for slide in part]
        assert (labels.count(1), labels.count(0)) == (positive, negative)
    other = split_cases(cohort, validation=0.2, test=0.2, seed=8)
    assert other.test != split.test


@pytest.mark.parametrize(("test", "cases"), [(0.2, 2), (0.0, 1)])
def test_says_when_cases_are_too_few(test: float, cases: int) -> None:
    cohort = _cohort([*((case, [0]) for case in range(9)), *((50 + c, [1]) for c in range(cases))])
    with pytest.raises(UsageError, match=rf"the class 'b' has {cases} cases, at least"):
        split_cases(cohort, validation=0.2, test=test, seed=0)


def test_bags_are_cached_up_to_the_limit(tmp_path: Path) -> None:
    folder = features_folder(tmp_path, ["a", "b"])
    one = bag("a")
    store = BagStore(one.features.nbytes + one.xy.nbytes)
    assert store.read(folder / "a.h5") is store.read(folder / "a.h5")
    first = store.read(folder / "b.h5")
    assert first is not store.read(folder / "b.h5")
    np.testing.assert_array_equal(first.features, bag("b").features)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (bag("b", d=5, encoder="1" * 64), "features of width 5, a.h5 of 4"),
        (bag("b", encoder="2" * 64), "by the encoder 222222222222, a.h5 by 111111111111"),
        (bag("b", encoder=None), r"by the encoder \(unknown\), a.h5 by 111111111111"),
    ],
)
def test_bags_must_come_from_one_encoder(tmp_path: Path, other: FeatureBag, message: str) -> None:
    write_features(tmp_path / "a.h5", bag("a", encoder="1" * 64))
    write_features(tmp_path / "b.h5", other)
    store = BagStore(0)
    store.read(tmp_path / "a.h5")
    with pytest.raises(FeatureFileError, match=message):
        store.read(tmp_path / "b.h5")
