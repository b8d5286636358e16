"""Files, patterns and folders become slides, each once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pathgene_rt.errors import UsageError
from pathgene_rt.slides.find import find_slides


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


def test_same_slide_id_twice_would_share_a_results_folder(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "case.svs").touch()
    with pytest.raises(UsageError, match="same slide id 'case'"):
        find_slides([str(tmp_path / "x"), str(tmp_path / "y")])


def test_files_of_one_dicom_series_are_one_slide(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "slides").glob("*.dcm"):
        shutil.copy(file, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert names(find_slides([str(tmp_path)])) == ["boxes_0.dcm"]
