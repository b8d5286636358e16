"""One writer a result: threads, processes, killed ones, and disks without locks."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pathgene_rt.errors import FileAccessError, OutputError
from pathgene_rt.locks import sole_writer

_NO_FLOCK = """
import errno, fcntl
def flock(descriptor, operation):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""
_HOLD = """
import sys
from pathlib import Path
from pathgene_rt.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX's")


@contextmanager
def held(result: Path, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process writes ``result``."""
    command = [sys.executable, "-c", before + _HOLD, str(result)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_file_and_a_folder_have_one_writer_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    folder.mkdir()
    for result in (tmp_path / "s.h5", folder):
        with (
            sole_writer(result),
            pytest.raises(FileAccessError, match=f"{result.name}: another process"),
            sole_writer(result),
        ):
            pass
        with sole_writer(result):
            pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["slide"]


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    result = tmp_path / "s.h5"
    with held(result) as holder:
        with pytest.raises(FileAccessError), sole_writer(result):
            pass
        holder.kill()
        holder.wait()
        with sole_writer(result):
            pass
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.usefixtures("no_flock")
def test_a_disk_without_locks_names_the_process_and_a_killed_one_is_recognised(
    tmp_path: Path,
) -> None:
    result = tmp_path / "s.h5"
    with held(result, _NO_FLOCK) as holder:
        says = rf"process {holder.pid} on .*remove .*s\.h5\.lock\.held"
        with pytest.raises(FileAccessError, match=says), sole_writer(result):
            pass
        holder.kill()
        holder.wait()
        with sole_writer(result):
            pass
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.usefixtures("no_flock")
def test_a_marker_of_another_computer_counts_until_it_is_removed(tmp_path: Path) -> None:
    result, marker = tmp_path / "s.h5", tmp_path / ".s.h5.lock.held"
    marker.write_text("1\nnode17\n5\n")
    with pytest.raises(FileAccessError, match="process 1 on node17"), sole_writer(result):
        pass
    marker.unlink()
    with sole_writer(result):
        pass


def test_a_place_that_cannot_be_locked_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot lock"), sole_writer(tmp_path / "no" / "s.h5"):
        pass


def test_what_killed_writers_left_of_this_result_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    folder.mkdir()
    mine = [tmp_path / f".s.h5{name}.0a1b2c3d.part" for name in ("", ".partial", ".partial.log")]
    mine += [folder / ".report.json.0a1b2c3d.part", folder / ".heatmap_x.png.00000000.part"]
    others = [tmp_path / ".s.h5b.h5.0a1b2c3d.part", tmp_path / "s.h5.partial", folder / "x.part"]
    for path in (*mine, *others):
        path.write_bytes(b"half")
    with sole_writer(tmp_path / "s.h5"), sole_writer(folder):
        assert not any(path.exists() for path in mine)
        assert all(path.exists() for path in others)
