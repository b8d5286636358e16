"""Files, patterns and folders become slides, each once."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from pathgene_rt.errors import UsageError
from pathgene_rt.slides import find
from pathgene_rt.slides.dicom.header import DicomHeader, read_dicom_header
from pathgene_rt.slides.find import find_slides
from tests.support.dicom_files import write_header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.svs", "a.tiff", "notes.txt", "c.NDPI"):
        (tmp_path / name).touch()
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_folder_gives_its_slides_in_order(folder: Path) -> None:
    assert names(find_slides([str(folder)])) == ["a.tiff", "b.svs", "c.NDPI"]


def test_pattern(folder: Path) -> None:
    assert names(find_slides([str(folder / "*.svs")])) == ["b.svs"]


def test_a_slide_named_twice_is_one(folder: Path) -> None:
    assert names(find_slides([str(folder / "b.svs"), str(folder)])) == [
        "b.svs",
        "a.tiff",
        "c.NDPI",
    ]


def test_a_slide_named_in_two_ways_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "to").symlink_to(folder)
    ways = ["b.svs", str(folder / "b.svs"), f"../{folder.name}/b.svs", "to/b.svs"]
    assert find_slides(ways) == [Path("b.svs")]


def test_a_missing_file_is_kept_so_that_it_is_reported(tmp_path: Path) -> None:
    assert names(find_slides([str(tmp_path / "gone.svs")])) == ["gone.svs"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "case[1].svs").touch()
    assert names(find_slides([str(tmp_path / "case[1].svs")])) == ["case[1].svs"]


def test_nothing_matches(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file matches"):
        find_slides([str(tmp_path / "*.svs")])
    with pytest.raises(UsageError, match="holds no slide"):
        find_slides([str(tmp_path)])


def test_slides_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "case.svs").touch()
    found = find_slides([str(tmp_path / "x"), str(tmp_path / "y")])
    assert found == [tmp_path / "x" / "case.svs", tmp_path / "y" / "case.svs"]


def test_folders_in_folders_are_searched_where_that_is_asked_for(tmp_path: Path) -> None:
    """As the GDC's client and IDC's lay their downloads out."""
    for name in ("0b3d/b.svs", "0b3d/logs/b.parcel", "1c2e/deep/a.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    series = tmp_path / "SM_1.2"
    write_header(series / "9f1c.dcm", "1.2")
    with pytest.raises(UsageError, match=r"holds no slide; .*add --recursive"):
        find_slides([str(tmp_path)])
    found = find_slides([str(tmp_path)], recursive=True)
    assert names(found) == ["b.svs", "a.svs", "9f1c.dcm"]
    with pytest.raises(UsageError, match="and those in it hold no slide"):
        find_slides([str(tmp_path / "0b3d" / "logs")], recursive=True)


def test_companions_that_macos_writes_are_passed_over(folder: Path) -> None:
    for name in ("._a.tiff", "._b.svs"):
        (folder / name).write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert names(find_slides([str(folder)])) == ["a.tiff", "b.svs", "c.NDPI"]
    assert names(find_slides([str(folder / "*.svs")])) == ["b.svs"]
    with pytest.raises(UsageError, match=r"no slide matches .*\._\*"):
        find_slides([str(folder / "._*")])
    assert names(find_slides([str(folder / "._b.svs")])) == ["._b.svs"]


def test_files_of_one_dicom_series_are_one_slide(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "slides").glob("*.dcm"):
        shutil.copy(file, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert names(find_slides([str(tmp_path)])) == ["boxes_0.dcm"]


def test_dicom_files_by_what_they_say(tmp_path: Path) -> None:
    """Without endings, labels first, beside reports, and with unreadable ones to be told."""
    write_header(tmp_path / "1.2.840.1", "1.2", kind="LABEL")
    write_header(tmp_path / "1.2.840.2", "1.2")
    write_header(tmp_path / "1.2.840.3", "1.2")
    write_header(tmp_path / "DICOMDIR", "-", sop_class="1.2.840.10008.1.3.10")
    write_header(tmp_path / "report.dcm", "7.7", sop_class="1.2.840.10008.5.1.4.1.1.88.11")
    (tmp_path / "broken.dcm").write_bytes(bytes(10))
    (tmp_path / "README").write_text("no slide")
    (tmp_path / "1.2.840.4").write_text("no slide")
    assert names(find_slides([str(tmp_path)])) == ["1.2.840.2", "broken.dcm"]
    assert names(find_slides([str(tmp_path / "1.2*")])) == ["1.2.840.2", "1.2.840.4"]
    assert names(find_slides([str(tmp_path / "report.dcm")])) == ["report.dcm"]
    assert names(find_slides([str(tmp_path / "1.2.840.1")])) == ["1.2.840.1"]


def test_a_crowd_of_dicom_slides_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(80):
        for part in range(2):
            write_header(tmp_path / f"s{number:04d}_{part}.dcm", f"1.2.{number}")
    read: Counter[Path] = Counter()

    def counted(path: Path) -> DicomHeader | None:
        read[path] += 1
        return read_dicom_header(path)

    monkeypatch.setattr(find, "read_dicom_header", counted)
    monkeypatch.setitem(sys.modules, "openslide", None)  # which reads the whole folder each time
    found = find_slides([str(tmp_path), str(tmp_path / "*.dcm")])
    assert names(found) == [f"s{number:04d}_0.dcm" for number in range(80)]
    assert len(read) == 160 and set(read.values()) == {1}


def test_the_same_series_in_two_folders_is_two_slides(tmp_path: Path) -> None:
    for place in ("x", "y"):
        write_header(tmp_path / place / "1.dcm", "1.2")
    assert len(find_slides([str(tmp_path)], recursive=True)) == 2
