"""Names of files that belong to another, and what is left of one that was not finished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pathgene_rt.errors import OutputError
from pathgene_rt.files import atomic_path, beside, partial_names, remove_unfinished, write_bytes
from pathgene_rt.locks import sole_writer

LONG = ["L" * 248 + ".h5", "病" * 82 + ".h5", "a" * 255]


@pytest.mark.parametrize("name", ["s.h5", *LONG])
def test_names_that_a_file_system_takes_are_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with sole_writer(path):
        write_bytes(path, b"rows")
        for partial in partial_names(name):
            write_bytes(path.with_name(partial), b"")
    assert path.read_bytes() == b"rows"


def test_long_names_do_not_meet() -> None:
    assert beside("s" * 200) == "s" * 200
    names = {beside("L" * 240 + str(number)) for number in range(100)}
    assert len(names) == 100
    assert max(len(os.fsencode(name)) for name in (*names, *map(beside, LONG))) < 120


@pytest.mark.parametrize("name", ["s.h5", *LONG])
def test_what_a_killed_writer_left_is_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    left = []
    for unfinished in (name, *partial_names(name)):
        with pytest.raises(OutputError), atomic_path(tmp_path / unfinished) as temporary:
            left.append(temporary.name)
            raise OSError(28, "killed")
    other = tmp_path / ".t.h5.00000000.part"
    other.write_bytes(b"")
    for file in left:
        (tmp_path / file).write_bytes(b"half")
    remove_unfinished(path)
    assert [file.name for file in tmp_path.iterdir()] == [other.name]
