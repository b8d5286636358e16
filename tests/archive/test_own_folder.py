"""Temporary folders of processes: they go with these, or with the next one."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pathgene_rt.archive import own_folder
from pathgene_rt.archive.own_folder import OwnFolder
from pathgene_rt.errors import OutputError


def make(root: Path) -> OwnFolder:
    return OwnFolder("pgrt-x-", root, "choose another")


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, fresh, other = (tmp_path / name for name in ("pgrt-x-old", "pgrt-x-new", "pgrt-y-old"))
    for folder in (left, fresh, other):
        folder.mkdir()
        (folder / "a.svs").touch()
    long_ago = time.time() - 100
    os.utime(left, (long_ago, long_ago))
    held = make(tmp_path)
    os.utime(held.path, (long_ago, long_ago))
    assert not left.exists()
    make(tmp_path).close()
    assert held.path.exists() and fresh.exists() and other.exists()
    held.close()
    held.close()
    assert not held.path.exists()


def test_it_goes_though_something_still_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_folder, "_WAIT_S", 0.0)
    own, remove, tried = make(tmp_path), shutil.rmtree, []

    def late(path: Path, *, ignore_errors: bool) -> None:
        remove(path, ignore_errors=ignore_errors)
        if not tried:
            path.mkdir()
            (path / "late").touch()
        tried.append(path)

    monkeypatch.setattr(own_folder.shutil, "rmtree", late)
    own.close()
    assert not own.path.exists() and len(tried) == 2


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*; choose another"):
        make(tmp_path / "none")
