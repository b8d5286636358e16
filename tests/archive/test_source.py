"""Folder trees and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathgene_rt.archive.source import ArchiveSlide, find_archive, size_of
from pathgene_rt.errors import UsageError
from pathgene_rt.slide_ids import TABLE_FILE


def touch(path: Path, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def manifest(folder: Path, text: str) -> str:
    path = folder / "slides.csv"
    path.write_text(text)
    return str(path)


def found(source: str, tmp_path: Path) -> list[ArchiveSlide]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return find_archive(source, out, lambda line: None)


def test_a_folder_tree(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "in" / "a.svs", 3), touch(tmp_path / "in" / "2024" / "b.ndpi", 5)
    touch(tmp_path / "in" / "notes.txt")
    slides = found(str(tmp_path / "in"), tmp_path)
    assert {(one.slide_id, one.source, one.size) for one in slides} == {
        ("a", str(a), 3),
        ("b", str(b), 5),
    }


def test_slides_of_one_name_get_ids_that_stay(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "x" / "1.svs")
    touch(tmp_path / "in" / "y" / "1.svs")
    ids = {one.slide_id for one in found(str(tmp_path / "in"), tmp_path)}
    assert ids == {"1~x", "1~y"} == {one.slide_id for one in found(str(tmp_path / "in"), tmp_path)}
    assert (tmp_path / "out" / TABLE_FILE).is_file()


def test_a_manifest(tmp_path: Path) -> None:
    a = touch(tmp_path / "in" / "a.svs", 3)
    text = f"Slide;Case ID;MPP;priority\nin/a.svs;P1;0.25;2\n{tmp_path}/gone.svs;;;\n"
    slides = found(manifest(tmp_path, text), tmp_path)
    assert slides == [
        ArchiveSlide("a", str(a), 3, "P1", 0.25, 2),
        ArchiveSlide("gone", str(tmp_path / "gone.svs")),
    ]


def test_a_manifest_in_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra ray")
    from pyarrow import parquet

    touch(tmp_path / "a.svs", 3)
    columns = {"slide": ["a.svs", "b.svs"], "mpp": [0.25, None], "priority": [None, 3]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    assert found(str(tmp_path / "m.parquet"), tmp_path) == [
        ArchiveSlide("a", str(tmp_path / "a.svs"), 3, "", 0.25, 0),
        ArchiveSlide("b", str(tmp_path / "b.svs"), 0, "", None, 3),
    ]
    touch(tmp_path / "broken.parquet", 100)
    with pytest.raises(UsageError, match="no Parquet file that can be read"):
        found(str(tmp_path / "broken.parquet"), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,case\na.svs,P1\n./b.svs,P1\nb.svs,P2\n", "b.svs is listed twice, in lines 3 and 4"),
        ("file,case\n,P1\n", "line 2 has no slide"),
        ("case\nP1\n", "needs the column slide"),
        ("slide\n", "lists no slide"),
        ("slide,mpp\na.svs,fast\n", "line 2 has mpp 'fast'; give a number"),
        ("slide,mpp\na.svs,25\n", "line 2: mpp 25 is no microscope's scale"),
        ("slide,priority\na.svs,1.5\n", "priority 1.5; give a whole number"),
        ("slide,case\na.svs,../P1\n", "cannot be a folder's name"),
        ("slide,case\na.svs,p1\nb.svs,P1\n", "differ in upper and lower case only"),
    ],
)
def test_manifests_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        found(manifest(tmp_path, text), tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="hold no slide"):
        found(str(tmp_path / "empty"), tmp_path)


def test_the_folder_of_an_mrxs_counts(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.mrxs", 2)
    touch(tmp_path / "a" / "Data0001.dat", 40)
    assert size_of(path) == 42
