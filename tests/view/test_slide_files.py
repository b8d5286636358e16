"""Slides are found by the ids of reports, inside the folders given and nowhere else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pathgene_rt.errors import UsageError
from pathgene_rt.slide_ids import write_table
from pathgene_rt.view import slide_files
from pathgene_rt.view.slide_files import SlideFolders, SlideIdentity, differences

REPORT = {
    "created": "2026-01-02T10:00:00+00:00",
    "provenance": {"slide": {"mpp": 0.5}, "made_from": {"slide_sha256": "ab" * 32}},
}
OLDER_REPORT = {"created": "2026-01-02T10:00:00+00:00", "provenance": {"slide": {"mpp": 0.5}}}
INFO = {"mpp": 0.5, "content_sha256": "ab" * 32}
BEFORE = 1_700_000_000 * 10**9
LATER = 4_000_000_000_000_000_000
"""In the year 2096: after any report."""


def test_slides_are_found_in_subfolders_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    slide = tmp_path / "a" / "b" / "Case-1.SVS"
    slide.write_bytes(b"x")
    (tmp_path / "case-1.txt").write_bytes(b"x")
    folders = SlideFolders([tmp_path])
    assert folders.find("case-1") == (slide,)
    assert folders.find("case-2") == ()


def test_slides_that_come_later_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_files, "_FRESH_S", 0.0)
    folders = SlideFolders([tmp_path])
    assert folders.find("case-1") == ()
    (tmp_path / "case-1.svs").write_bytes(b"x")
    assert folders.find("case-1") == (tmp_path / "case-1.svs",)
    (tmp_path / "case-1.svs").unlink()
    assert folders.find("case-1") == ()


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "case-1.svs").write_bytes(b"x")
    (inside / "case-1.svs").symlink_to(outside / "case-1.svs")
    (inside / "linked").symlink_to(outside)
    assert SlideFolders([inside]).find("case-1") == ()
    (inside / "real.svs").write_bytes(b"x")
    (inside / "case-2.svs").symlink_to(inside / "real.svs")
    assert SlideFolders([inside]).find("case-2") == (inside / "real.svs",)


def test_the_results_table_says_which_of_several_files_is_meant(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    outside = tmp_path / "secret.svs"
    for path in (tmp_path / "slides/a/case.svs", tmp_path / "slides/b/case.svs", outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    named = {path: f"case~{path.parent.name}" for path in (tmp_path / "slides").glob("*/*.svs")}
    write_table(results, {**named, outside: "secret"})
    folders = SlideFolders([tmp_path / "slides"], results)
    assert folders.find("case~b") == (tmp_path / "slides/b/case.svs",)
    assert len(folders.find("case")) == 2
    assert folders.find("secret") == ()
    (results / "slides.csv").write_text("not,the,table")
    with pytest.raises(UsageError, match=r"slides\.csv"):
        SlideFolders([tmp_path / "slides"], results)


def test_a_folder_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--slides .* is no folder"):
        SlideFolders([tmp_path / "nothing"])


def test_the_same_slide_differs_in_nothing() -> None:
    assert differences(REPORT, INFO, SlideIdentity(10, BEFORE)) == []


@pytest.mark.parametrize(
    ("report", "info", "changed_ns", "key"),
    [
        (REPORT, {**INFO, "content_sha256": "cd" * 32}, BEFORE, "changed_content"),
        (REPORT, {**INFO, "mpp": 0.25}, BEFORE, "changed_mpp"),
        (OLDER_REPORT, INFO, LATER, "changed_newer"),
    ],
)
def test_another_slide_is_told_from_the_reports(
    report: dict, info: dict, changed_ns: int, key: str
) -> None:
    found = differences(report, info, SlideIdentity(10, changed_ns))
    assert [one["key"] for one in found] == [key]


def test_a_copy_of_the_same_slide_is_no_other_slide() -> None:
    assert differences(REPORT, INFO, SlideIdentity(10, time.time_ns())) == []


def test_reports_that_say_less_are_compared_by_what_they_say() -> None:
    report = {"created": "never", "provenance": {}}
    assert differences(report, {**INFO, "mpp": None}, SlideIdentity(1, BEFORE)) == []


def test_an_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"one")
    first = SlideIdentity.of(path)
    os.utime(path, ns=(0, first.mtime_ns + 1))
    assert SlideIdentity.of(path) != first
