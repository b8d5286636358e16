"""Slides' ids: names that are safe for files everywhere, one a slide, the same in every run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.errors import UsageError
from pathgene_rt.files import is_safe_name
from pathgene_rt.slide_ids import (
    MAX_ID_BYTES,
    TABLE_FILE,
    assign_ids,
    changed,
    file_key,
    read_table,
    slide_id_of,
    write_table,
)


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("case-7.svs", "case-7"),
        ("a.ome.tiff", "a.ome"),
        ("S12.345.A.2.svs", "S12.345.A.2"),
        ("1.2.840.113619.2.5", "1.2.840.113619.2.5"),
        ("1.2.840.113619.2.5.dcm", "1.2.840.113619.2.5"),
        ("S12.345.A", "S12.345.A"),
        ("TCGA-05.d4ff32cd-38cf-40ea-8213.svs", "TCGA-05.d4ff32cd-38cf-40ea-8213"),
        ("肺癌 2024-01.svs", "肺癌 2024-01"),
        ("-12345.svs", "-12345"),
        ("slide", "slide"),
    ],
)
def test_an_id_is_the_name_without_its_ending(name: str, slide_id: str) -> None:
    assert slide_id_of(Path("folder") / name) == slide_id


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("..svs", "_~"),
        ("...svs", "_~"),
        (".hidden.svs", "_hidden~"),
        ("case 7 .svs", "case 7~"),
        ("a:b?.svs", "a_b_~"),
        ("a\\b.svs", "a_b~"),
        ("con.svs", "con~"),
        ("COM1.svs", "COM1~"),
        ("cases.svs", "cases~"),
        ("slides.csv.svs", "slides.csv~"),
        ("tab\t\x1b[31m.svs", "tab__[31m~"),
        ("\udcff\udcfe.svs", "__~"),
        ("L" * 244 + ".svs", "L" * MAX_ID_BYTES + "~"),
    ],
)
def test_a_name_that_is_none_for_a_folder_is_changed_and_told_apart(name: str, begins: str) -> None:
    slide_id = slide_id_of(Path(name))
    assert slide_id.startswith(begins) and len(slide_id) == len(begins) + 8
    assert is_safe_name(slide_id) and "/" not in slide_id


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=90))
def test_whatever_the_name_its_results_stay_in_their_folder(name: str) -> None:
    if name in (".", ".."):
        return
    slide_id = slide_id_of(Path("in") / name)
    assert is_safe_name(slide_id) and not slide_id.startswith(".")
    assert (Path("out") / slide_id).parent == Path("out")
    assert len(slide_id.encode()) <= MAX_ID_BYTES + 9
    assert slide_id == slide_id_of(Path("elsewhere") / name)


def test_slides_of_one_name_have_their_folders_with_it() -> None:
    slides = [Path("x/case.svs"), Path("y/CASE.tiff"), Path("y/other.svs"), Path("1/y/case.svs")]
    ids = assign_ids(slides)
    assert ids[slides[0]] == "case~x" and ids[slides[2]] == "other"
    assert ids[slides[1]] == "CASE~y"
    assert ids[slides[3]].startswith("case~") and ids[slides[3]] not in ("case~x", "case~y")
    assert len({slide_id.casefold() for slide_id in ids.values()}) == 4
    assert changed(ids) and not changed(assign_ids(slides[:1]))


def test_ids_are_kept_from_run_to_run(tmp_path: Path) -> None:
    first, second = Path("x/case.svs"), Path("y/case.svs")
    assert read_table(tmp_path) == {}
    ids = assign_ids([first, second], read_table(tmp_path))
    write_table(tmp_path, ids)
    with (tmp_path / TABLE_FILE).open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["slide_id", "file"],
            ["case~x", str(first.absolute())],
            ["case~y", str(second.absolute())],
        ]
    known = read_table(tmp_path)
    assert assign_ids([second], known) == {second: "case~y"}
    assert assign_ids([Path("z/case.svs")], known | {file_key(Path("w/case.svs")): "case"}) == {
        Path("z/case.svs"): "case~z"
    }
    write_table(tmp_path, {Path("a,\n\udcff.svs"): "odd"})
    assert read_table(tmp_path) == known | {file_key(Path("a,\n\udcff.svs")): "odd"}


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "slide_id,file\nonly one\n"])
def test_another_table_of_that_name_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / TABLE_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"slides\.csv: is not the table of slide ids"):
        write_table(tmp_path, {Path("a.svs"): "a"})
    assert (tmp_path / TABLE_FILE).read_text() == text
