"""The table of cases: what it may say about the slides that are given, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathgene_rt.cases.table import Case, read_cases
from pathgene_rt.errors import UsageError
from pathgene_rt.pseudonyms import Pseudonyms

A, B, C = Path("in/a.svs"), Path("in/b.1.tiff"), Path("in/c.svs")


def read(tmp_path: Path, text: str, *slides: Path):
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    return read_cases(tmp_path / "cases.csv", slides or (A, B, C))


def test_slides_by_name_or_stem_in_the_order_of_the_table(tmp_path: Path) -> None:
    table = read(tmp_path, "slide,case\nc,P1\na.svs,P1\nb.1,P2\n")
    assert table.cases == (Case("P1", (C, A)), Case("P2", (B,)))
    assert table.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffslide,case\na,P1\nb.1,P1\nc,P1\n",
        "case, slide ,stage\nP1,a,II\nP1, b.1.tiff,\nP1,c,\n\n",
        "slide_id,case_id,EGFR\r\na,P1,wild type\r\nb.1,P1,\r\nc,P1,mutated\r\n",
        "\ufeffSlide;Case\r\na.scn;P1\r\n;\r\nb.1.tiff;P1\r\nc.svs;P1\r\n",
    ],
    ids=["byte order mark", "spaces and other columns", "label table", "Excel in Europe"],
)
def test_tables_of_other_programs(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).cases == (Case("P1", (A, B, C)),)


def test_cases_and_slides_that_are_left_out_are_noted(tmp_path: Path) -> None:
    table = read(tmp_path, "slide,case\na,P1\nx,P8\ny,P8\nz,P9\n")
    assert table.cases == (Case("P1", (A,)),)
    left_out, alone = table.notes
    assert "2 cases, e.g. P8" in left_out
    assert "2 of the slides, e.g. b.1.tiff" in alone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,patient\na,P1\n", "needs the columns slide and case; its columns are slide, pat"),
        ("", "needs the columns slide and case"),
        ("slide,case\n", "names none of the 3 slides"),
        ("slide,case\nx,P1\n", "names none of the 3 slides"),
        ("slide,case\na,P1\na.svs,P2\n", "slide a.svs is listed twice, in lines 2 and 3"),
        ("slide,case\na,P1\nx,P2\nx,P2\n", "slide x is listed twice, in lines 3 and 4"),
        ("slide,case\na,P1\nb.1,\n", "line 3 has no case"),
        ("slide,case\na,P1\n,P1\n", "line 3 has no slide"),
        ("slide,case\na,P1\nb.1\n", "line 3 has no case"),
        ("slide,case\na,P1\nx.svs,P1\n", "case P1 has the slide x.svs, which is not given"),
        ("slide,case\na,../P1\n", "case '../P1' cannot be a folder's name"),
        ("slide,case\na,..\n", "case '..' cannot be a folder's name"),
        ("slide,case\na,P1\nb.1,p1\n", "cases P1 and p1 differ in upper and lower case only"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slide_that_a_spreadsheet_renamed_is_hinted_at(tmp_path: Path) -> None:
    slides = (Path("0012.svs"), Path("0013.svs"))
    with pytest.raises(UsageError, match=r"line 3; is it 0012, of which a spreadsheet"):
        read(tmp_path, "slide,case\n0013,P1\n12.0,P1\n", *slides)
    with pytest.raises(UsageError, match=r"none of the 2 slides \(12; is it 0012"):
        read(tmp_path, "slide,case\n12,P1\n", *slides)
    with pytest.raises(UsageError) as caught:
        read_cases(tmp_path / "cases.csv", slides, Pseudonyms.random())
    assert "0012" not in str(caught.value)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the cases"):
        read_cases(tmp_path / "gone.csv", [A])
    (tmp_path / "latin.csv").write_bytes("slide,case\na,Müller\n".encode("latin-1"))
    with pytest.raises(UsageError, match="no CSV in UTF-8"):
        read_cases(tmp_path / "latin.csv", [A])
