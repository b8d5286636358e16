"""A slide that crashes or stalls a reader ends that process, not the server."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from pathgene_rt.view import slide_workers
from pathgene_rt.view.slide_workers import BusyError, CrashedError, SlideWorkers

WAIT_S = 60


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process, with readers that do what the path says."""
    script = tmp_path / "faulty.py"
    script.write_text(
        textwrap.dedent(
            """\
            import os, time
            from pathgene_rt.view import slide_process

            def read(slides, job):
                if job["path"] == "crash":
                    os.abort()
                if job["path"] == "hang":
                    time.sleep(600)
                if job["path"] == "print":
                    os.write(1, b"a library says something")
                return {"process": os.getpid()}, job["path"].encode()

            slide_process.JOBS["tile"] = read
            slide_process.main()
            """
        )
    )
    monkeypatch.setattr(slide_workers, "module_command", lambda _: [sys.executable, str(script)])


def ask(workers: SlideWorkers, path: str, identity: str = "") -> tuple[dict, bytes]:
    return workers.submit({"job": "tile", "path": path}, identity).result(WAIT_S)


@pytest.mark.usefixtures("faulty")
def test_a_crash_is_one_jobs_error_and_the_next_is_answered() -> None:
    workers = SlideWorkers(1)
    try:
        first, payload = ask(workers, "good")
        assert payload == b"good"
        with pytest.raises(CrashedError, match="ended"):
            ask(workers, "crash")
        second, payload = ask(workers, "good")
        assert payload == b"good"
        assert first["process"] != second["process"]
    finally:
        workers.close()


@pytest.mark.usefixtures("faulty")
def test_what_crashes_again_and_again_is_not_tried_until_it_changes() -> None:
    workers = SlideWorkers(1)
    try:
        for _ in range(3):
            with pytest.raises(CrashedError):
                ask(workers, "crash", "as it is")
        before = ask(workers, "good")[0]["process"]
        with pytest.raises(CrashedError, match="3 times"):
            ask(workers, "crash", "as it is")
        assert ask(workers, "good")[0]["process"] == before
        with pytest.raises(CrashedError, match="its reader ended"):
            ask(workers, "crash", "changed")
    finally:
        workers.close()


@pytest.mark.usefixtures("faulty")
def test_a_reader_that_stands_still_is_ended() -> None:
    workers = SlideWorkers(1, timeout_s=3)
    try:
        with pytest.raises(CrashedError):
            ask(workers, "hang")
        assert ask(workers, "good")[1] == b"good"
    finally:
        workers.close()


@pytest.mark.usefixtures("faulty")
def test_what_libraries_print_does_not_get_between_answers() -> None:
    workers = SlideWorkers(1)
    try:
        assert ask(workers, "print")[1] == b"print"
        assert ask(workers, "good")[1] == b"good"
    finally:
        workers.close()


@pytest.mark.usefixtures("faulty")
def test_two_files_are_read_by_two_processes_and_each_stays_with_its_own() -> None:
    workers = SlideWorkers(2)
    try:
        one = {ask(workers, "one")[0]["process"] for _ in range(3)}
        two = {ask(workers, "two")[0]["process"] for _ in range(3)}
        assert len(one) == len(two) == 1 and one != two
    finally:
        workers.close()


@pytest.mark.usefixtures("faulty")
def test_more_jobs_than_can_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_workers, "MAX_WAITING", 4)
    workers = SlideWorkers(1, timeout_s=30)
    try:
        waiting = [workers.submit({"job": "tile", "path": "hang"})]
        with pytest.raises(BusyError):
            for _ in range(6):
                waiting.append(workers.submit({"job": "tile", "path": "good"}))
        assert 4 <= len(waiting) <= 6
    finally:
        workers.close()
    assert all(one.done() for one in waiting)


def test_damaged_files_are_answers_not_crashes(tmp_path: Path) -> None:
    damaged = tmp_path / "slide.svs"
    damaged.write_bytes(b"II*\0" + b"\xff" * 100)
    workers = SlideWorkers(1)
    try:
        header, _ = workers.submit({"job": "info", "path": str(damaged)}).result(WAIT_S)
        assert header["error"] == "slide"
        assert "slide.svs" in header["message"] and str(tmp_path) not in header["message"]
        missing = {"job": "info", "path": str(tmp_path / "gone.svs")}
        assert workers.submit(missing).result(WAIT_S)[0]["error"] == "slide"
    finally:
        workers.close()
