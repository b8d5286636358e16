"""One result for each slide, whoever else makes it at the same time."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pathgene_rt.archive import publish as module
from pathgene_rt.archive import start
from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.publish import attempt_place, discard, discard_all, publish, stamp_of
from pathgene_rt.archive.start import sole_run
from pathgene_rt.errors import OutputError


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(text)
    return folder


def never() -> bool:
    raise AssertionError("nobody came in between")


@pytest.fixture
def layout(tmp_path: Path) -> ArchiveLayout:
    return ArchiveLayout(tmp_path)


def test_a_result_comes_into_its_place_and_the_attempt_goes(layout: ArchiveLayout) -> None:
    final = layout.out / "s1"
    with attempt_place(layout, "1-1") as place:
        assert publish(make(place / "s1", "new"), final, layout, None, never)
    assert (final / "report.json").read_text() == "new"
    assert list(layout.attempts.iterdir()) == []


def test_an_older_result_is_replaced_whole(layout: ArchiveLayout) -> None:
    final = make(layout.out / "s1", "old")
    (final / "heatmap_old.png").touch()
    before = stamp_of(final)
    with attempt_place(layout, "1-1") as place:
        assert publish(make(place / "s1", "new"), final, layout, before, never)
    assert [path.name for path in final.iterdir()] == ["report.json"]
    assert list(layout.removed.iterdir()) == []


@pytest.mark.parametrize("serves", [True, False])
def test_one_that_came_meanwhile_stays_if_it_serves(layout: ArchiveLayout, serves: bool) -> None:
    final = layout.out / "s1"
    with attempt_place(layout, "1-1") as place:
        make(final, "theirs")
        made = make(place / "s1", "ours")
        assert publish(made, final, layout, None, lambda: serves) is not serves
    assert (final / "report.json").read_text() == ("theirs" if serves else "ours")
    assert list(layout.attempts.iterdir()) == []


def test_one_that_comes_at_the_last_moment(
    layout: ArchiveLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the rename."""
    final = layout.out / "s1"
    put = module._put

    def late(made: Path, place: Path) -> None:
        if not place.exists():
            make(place, "theirs")
        put(made, place)

    monkeypatch.setattr(module, "_put", late)
    with attempt_place(layout, "1-1") as place:
        assert not publish(make(place / "s1", "ours"), final, layout, None, lambda: True)
    assert (final / "report.json").read_text() == "theirs"


def test_whoever_was_thought_dead_finds_nothing_to_publish(layout: ArchiveLayout) -> None:
    """A new run removes attempts; one whose worker still lives fails and harms nothing."""
    final = layout.out / "s1"
    with attempt_place(layout, "1-1") as place:
        made = make(place / "s1", "ours")
        discard_all(layout)
        assert not place.exists()
        with pytest.raises(OutputError, match="cannot publish"):
            publish(made, final, layout, None, never)
    assert not final.exists()


def test_what_a_killed_run_was_removing_is_removed(layout: ArchiveLayout) -> None:
    make(layout.removed / "abc", "old")
    (layout.removed / "def").write_text("old")
    discard_all(layout)
    assert list(layout.removed.iterdir()) == []
    discard(layout.out / "nothing", layout)


@pytest.mark.parametrize("links", [True, False])
def test_files_are_published_too(
    layout: ArchiveLayout, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    final = layout.out / "s1.h5"
    final.write_text("old")
    before = stamp_of(final)
    for text in ("new", "newer"):
        with attempt_place(layout, "1-1") as place:
            (place / "s1.h5").write_text(text)
            published = publish(place / "s1.h5", final, layout, before, lambda: True)
            assert published is (text == "new")
    assert final.read_text() == "new"


def test_a_place_that_cannot_be_written_is_told(layout: ArchiveLayout) -> None:
    shutil.rmtree(layout.hidden, ignore_errors=True)
    layout.hidden.write_text("a file")
    with pytest.raises(OutputError, match="cannot write to"), attempt_place(layout, "1-1"):
        pass


def test_a_folder_has_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_LOCK_WAIT_S", 0.05)
    with sole_run(tmp_path / "out") as place:
        left = make(place.layout.attempts / "abc" / "s1", "half")
        with (
            pytest.raises(OutputError, match="another archive run writes to"),
            sole_run(tmp_path / "out"),
        ):
            pass
        assert left.exists()
    with sole_run(tmp_path / "out"):
        assert not left.exists()
