"""Tables as Excel, pandas and R write them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt.errors import UsageError
from pathgene_rt.slides.registry import known_suffixes
from pathgene_rt.tables import (
    ENDINGS,
    MISSING,
    class_form,
    class_names,
    find_id,
    hint,
    is_missing,
    read_table,
    require_distinct,
    slide_id_of,
)

ROWS = [{"slide_id": "s 1", "EGFR": "wild type"}, {"slide_id": "s2", "EGFR": "mutated; L858R"}]


def read(tmp_path: Path, content: str | bytes):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, "the labels")


@pytest.mark.parametrize(
    "content",
    [
        b"slide_id,EGFR\ns 1,wild type\ns2,mutated; L858R\n",
        b'\xef\xbb\xbfslide_id;EGFR\r\ns 1;wild type\r\ns2;"mutated; L858R"\r\n;\r\n',
        b'sep=;\r\nslide_id;EGFR\r\ns 1;wild type\r\ns2;"mutated; L858R"\r\n',
        "slide_id\tEGFR\r\ns 1\twild type\r\ns2\tmutated; L858R\r\n".encode("utf-16"),
        b'"","slide_id","EGFR"\n"1","s 1","wild type"\n"2","s2","mutated; L858R"\n',
        b'"slide_id" "EGFR"\n'.replace(b" ", b",")
        + b'"1","s 1","wild type"\n"2",s2,"mutated; L858R"\n',
        b"Unnamed: 0,slide_id,EGFR\n0,s 1,wild type\n1,s2,mutated; L858R\n",
        b"slide_id , EGFR,,\n s 1, wild type,,\n,,,\n\ns2,mutated; L858R,,\n",
        b"\n\nslide_id|EGFR\ns 1|wild type\ns2|mutated; L858R",
        "slide_id,EGFR\ns\u00a01,\u00a0wild type \ns2,mutated; L858R\n".replace(
            "s\u00a01", "s 1"
        ).encode(),
    ],
    ids=[
        "plain",
        "Excel in Europe",
        "Excel's sep=",
        "Excel's Unicode text",
        "R's write.csv",
        "R's write.table",
        "pandas read back",
        "empty cells and rows",
        "bars",
        "blanks that do not break",
    ],
)
def test_one_table_written_by_each_program(tmp_path: Path, content: bytes) -> None:
    table = read(tmp_path, content)
    assert table.columns == ("slide_id", "EGFR")
    assert [dict(row.cells) for row in table.rows] == ROWS


def test_lines_are_those_that_an_editor_shows(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b\n\n1,2\n,\n3,4\n")
    assert [row.line for row in table.rows] == [3, 5]


def test_columns_are_found_whatever_their_capitals(tmp_path: Path) -> None:
    table = read(tmp_path, "Slide ID,CASE_ID,Fold\na,b,1\n")
    assert table.column("path", "slide_id") == "Slide ID"
    assert (table.column("case_id"), table.column("fold")) == ("CASE_ID", "Fold")
    assert table.column("case") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04" + b"x" * 50, "Excel or LibreOffice workbook; save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 50, "old Excel file; save the sheet as CSV"),
        ("slide_id,a\nä,1\n".encode("latin-1"), "byte 11 is of another encoding"),
        (b"a,b\n\0,1\n", "bytes of 0"),
        (b'a,b\n"x,1\ny,2\n', "no CSV in UTF-8: line 3"),
        (b"slide_id,Slide ID\na,b\n", "2 columns slide_id"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 cells for 2 columns; put cells that hold ','"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, content)
    assert says in str(caught.value) and "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_line(tmp_path_factory, content: bytes) -> None:
    try:
        table = read(tmp_path_factory.mktemp("t"), content)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert all(set(row.cells) == set(table.columns) for row in table.rows)


def test_words_for_no_value() -> None:
    for word in ("", "#N/A", "NA", "NaN", "NULL", "None", "<NA>", "-", ".", "unknown", "?", "n/a"):
        assert is_missing(word), word
    for word in ("0", "no", "negative", "not mutated", "normal", "N"):
        assert not is_missing(word), word
    assert all(word == word.casefold() for word in MISSING)


def test_one_class_however_it_is_written() -> None:
    cells = [
        "1",
        "1.0",
        " 1",
        "1.00",
        "0",
        "Mutated",
        "mutated",
        "MUTATED",
        "mutated",
        "wild  type",
    ]
    assert len({class_form(cell) for cell in cells[:4]}) == 1
    assert class_names(cells) == {
        "1": "1",
        "0": "0",
        "mutated": "mutated",
        "wild type": "wild type",
    }
    assert class_names(["Wild type", "wild type"]) == {"wild type": "Wild type"}
    assert class_form("0.5") != class_form("0") and class_form("2") != class_form("2.5")
    assert class_form("1,0") == "1", "a decimal comma"


def test_class_names_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from pathgene_rt.evaluation.labels import order_classes\n"
        "from pathgene_rt.tables import class_names\n"
        "names = class_names(['b','B','a','A','2.0','2','10'])\n"
        "print(names, order_classes({'1.50', '1.5', '0'}), order_classes(set(names.values())))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": str(seed), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(outputs) == 1


def test_files_are_named_with_or_without_their_ending() -> None:
    for ending in ENDINGS:
        assert slide_id_of(f"C:\\data\\s.1{ending.upper()}") == "s.1"
    assert known_suffixes() - {".ptif"} <= set(ENDINGS)
    known = {"s.1", "t.ome", "u"}
    for entry in ("s.1", "s.1.svs", "folder/s.1.tif", "s.1.czi"):
        assert find_id(entry, known) == "s.1"
    for entry in ("t", "t.ome", "t.ome.tiff", "t.ome.tif", "t.tiff"):
        assert find_id(entry, known) == "t.ome"
    assert find_id("u.ome.tiff", known) == "u" and find_id("v", known) is None


@pytest.mark.parametrize(
    ("entry", "known", "says"),
    [
        ("12", ["0012", "0013"], "is it 0012, of which a spreadsheet made a number"),
        ("12.0", ["0012", "0013"], "is it 0012, of which a spreadsheet made a number"),
        ("12.0", ["12"], "is it 12, of which a spreadsheet made a number"),
        ("tcga-05-4249", ["TCGA-05-4249", "TCGA-05-4250"], "is it TCGA-05-4249?"),
        ("TCGA-05-4294", ["TCGA-05-4249", "x"], "is it TCGA-05-4249?"),
        ("abc", ["0012"], ""),
    ],
)
def test_hints(entry: str, known: list[str], says: str) -> None:
    assert says in hint(entry, known) and bool(hint(entry, known)) == bool(says)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["P1", "p1"], "cases P1 and p1 differ in upper and lower case only"),
        (["0012", "12"], "cases 0012 and 12 differ in leading zeros or a decimal point only"),
        (["12", "12.0"], "cases 12 and 12.0 differ in leading zeros or a decimal point only"),
    ],
)
def test_two_ids_of_one_case(tmp_path: Path, ids: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        require_distinct(tmp_path, "case", ids)
    require_distinct(tmp_path, "case", ["P1", "P10", "10", "1", "P1"])
