"""Tasks to workers: deaths, refusals, failures, pauses; without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pathgene_rt.archive.control import set_paused
from pathgene_rt.archive.estimate import estimate, sample_of
from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.queue import TaskQueue, in_order
from pathgene_rt.archive.results import FolderResults
from pathgene_rt.archive.run import ArchiveRun, RunResult
from pathgene_rt.archive.source import ArchiveSlide, cases_of
from pathgene_rt.archive.state import ArchiveState
from pathgene_rt.archive.status import read_events, read_status
from pathgene_rt.archive.tasks import CaseTask, Ended, Hello, SampleTask, Task
from pathgene_rt.errors import (
    CancelledError,
    EngineError,
    EngineUnavailableError,
    NoTissueError,
    OutputError,
    SlideError,
)
from pathgene_rt.locks import sole_writer
from tests.support.scripted_pool import Do, ScriptedPool

SLIDES = [ArchiveSlide(f"s{number}", f"/slides/s{number}.svs", 100 + number) for number in range(6)]
DONE = Ended("done", seconds=2.0, tiles=10)


def failed(error: Exception, *, stops: bool = False) -> Ended:
    return Ended("failed", kind=type(error).__name__, message=str(error), stops=stops)


def run(
    out: Path,
    pool: ScriptedPool,
    slides: list[ArchiveSlide] = SLIDES,
    **options,
) -> RunResult:
    layout = ArchiveLayout(out)
    with ArchiveState(layout.state) as state:
        before = state.begin("predict", slides, "here", 1, {"bundle": "b", "bundle_sha256": "0"})
        queue = TaskQueue(in_order(slides, before), cases_of(slides))
        return ArchiveRun(FolderResults(layout), queue, pool, state, **options).run()


def on(names: dict[str, Ended | str], others: Ended = DONE) -> Do:
    return lambda worker, task: names.get(task.name, others)


def test_every_slide_once_the_largest_first(tmp_path: Path) -> None:
    pool = ScriptedPool(on({}))
    result = run(tmp_path, pool)
    assert result.slides == {"done": 6} and not result.failures
    assert pool.given == ["s5", "s4", "s3", "s2", "s1", "s0"]
    status = read_status(tmp_path)
    assert (status.slides, status.activity, status.outcome) == ({"done": 6}, "ended", "done")
    assert status.bytes_done == status.bytes_total == sum(slide.size for slide in SLIDES)
    assert [(one.node, one.slides, one.tiles) for one in status.nodes] == [
        ("node0", 3, 30),
        ("node1", 3, 30),
    ]


def test_no_more_workers_than_slides(tmp_path: Path) -> None:
    pool = ScriptedPool(on({}), count=64)
    run(tmp_path, pool, SLIDES[:3])
    assert pool.started == 3


def test_a_slide_whose_worker_died_is_done_by_another(tmp_path: Path) -> None:
    deaths: list[int] = []

    def do(worker: int, task: Task) -> Ended | str:
        if task.name == "s4" and not deaths:
            deaths.append(worker)
            return "killed by signal 9"
        return DONE

    pool = ScriptedPool(do)
    assert run(tmp_path, pool).slides == {"done": 6}
    assert pool.given.count("s4") == 2 and len(pool.given) == 7
    told = [what for _, what in read_events(tmp_path)]
    assert any("which had s4, died: killed by signal 9" in what for what in told)
    assert sum(one.died for one in read_status(tmp_path).nodes) == 1


def test_a_slide_that_kills_its_worker_twice_is_set_aside_with_the_reason(tmp_path: Path) -> None:
    pool = ScriptedPool(on({"s3": "out of memory"}), out=tmp_path)
    result = run(tmp_path, pool)
    assert result.slides == {"done": 5, "failed": 1}
    assert pool.given.count("s3") == 2
    error = result.failures["s3"]
    assert isinstance(error, SlideError)
    assert "s3: set aside, for it ended its worker 2 times (out of memory)" in str(error)
    assert read_status(tmp_path).failures["SlideError"]["example"] == "s3"
    again = ScriptedPool(on({}))
    assert run(tmp_path, again).slides == {"done": 6}
    assert again.given[-1] == "s3"  # what failed before comes last


def test_a_slide_is_not_blamed_for_a_worker_that_died_before_it_began(tmp_path: Path) -> None:
    deaths: list[int] = []

    def do(worker: int, task: Task) -> Ended | str:
        if task.name == "s3" and len(deaths) < 3:
            deaths.append(worker)
            return "killed"
        return DONE

    assert run(tmp_path, ScriptedPool(do)).slides == {"done": 6}
    assert len(deaths) == 3
    hopeless = ScriptedPool(on({"s3": "killed"}))
    assert run(tmp_path, hopeless).slides == {"done": 5, "failed": 1}
    assert hopeless.given.count("s3") == 6


def test_workers_that_all_die_end_the_run(tmp_path: Path) -> None:
    pool = ScriptedPool(on({}), hello=lambda number: "no module named pathgene_rt")
    with pytest.raises(EngineUnavailableError, match=r"one after the other.*no module named"):
        run(tmp_path, pool)
    assert pool.started < 20
    assert read_status(tmp_path).outcome == "stopped by EngineUnavailableError"


def test_many_slides_that_kill_do_not_end_the_run(tmp_path: Path) -> None:
    slides = [ArchiveSlide(f"k{number}", "") for number in range(40)]
    result = run(tmp_path, ScriptedPool(lambda *_: "killed", out=tmp_path), slides)
    assert result.slides == {"failed": 40}


def test_a_worker_of_another_version_is_left_out(tmp_path: Path) -> None:
    def hello(number: int) -> Hello:
        refusal = "another version" if number == 1 else ""
        return Hello("old" if number == 1 else "new", number, time.time(), "numpy", refusal)

    notes: list[str] = []
    pool = ScriptedPool(on({}), hello=hello)
    assert run(tmp_path, pool, note=notes.append).slides == {"done": 6}
    assert pool.started == 2 and pool.stopped == [1]
    assert notes == ["worker 1 on old cannot take part: another version"]


def test_no_worker_at_all_may_take_part(tmp_path: Path) -> None:
    pool = ScriptedPool(on({}), hello=lambda number: Hello("n", 1, 0.0, refusal="another bundle"))
    with pytest.raises(EngineUnavailableError, match="no worker can take part; n: another bundle"):
        run(tmp_path, pool)
    assert pool.given == []


def test_a_clock_that_is_off_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    pool = ScriptedPool(on({}), 1, lambda number: Hello("n", 1, time.time() + 3600))
    run(tmp_path, pool, note=notes.append)
    assert any("n: its clock is +3600 s off" in note for note in notes)


def test_a_failed_slide_stops_no_other(tmp_path: Path) -> None:
    result = run(tmp_path, ScriptedPool(on({"s2": failed(NoTissueError("s2: no tissue"))})))
    assert result.slides == {"done": 5, "failed": 1}
    assert type(result.failures["s2"]) is NoTissueError


def test_an_engine_that_fails_costs_its_worker_not_the_archive(tmp_path: Path) -> None:
    def do(worker: int, task: Task) -> Ended:
        return failed(EngineError("the GPU is gone")) if worker == 2 else DONE

    pool = ScriptedPool(do)
    assert run(tmp_path, pool).slides == {"done": 6}
    assert pool.stopped == [2] and pool.started == 3
    always = ScriptedPool(on({"s1": failed(EngineError("s1: features are not finite"))}))
    result = run(tmp_path, always)
    assert result.slides == {"done": 5, "failed": 1}
    assert str(result.failures["s1"]) == "s1: features are not finite"


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    full = failed(OutputError("cannot write: no space left"), stops=True)
    pool = ScriptedPool(on({"s3": full}))
    with pytest.raises(OutputError, match="no space left"):
        run(tmp_path, pool)
    assert read_status(tmp_path).slides["waiting"] >= 1


def test_a_case_is_done_after_its_slides_and_slides_of_a_case_follow_each_other(
    tmp_path: Path,
) -> None:
    slides = [
        ArchiveSlide("a", "/a", 10, case="P1"),
        ArchiveSlide("big", "/big", 50),
        ArchiveSlide("b", "/b", 45, case="P1"),
        ArchiveSlide("c", "/c", 1, case="P2"),
        ArchiveSlide("now", "/now", 2, priority=5),
    ]
    done: list[Task] = []

    def do(worker: int, task: Task) -> Ended:
        done.append(task)
        return failed(NoTissueError("a")) if task.name == "a" else DONE

    result = run(tmp_path, ScriptedPool(do, 1), slides)
    assert [task.name for task in done] == ["now", "b", "a", "P1", "big", "c", "P2"]
    assert done[3] == CaseTask("P1", (("a", "/a"), ("b", "/b")), failed=("a",))
    assert result.cases == {"done": 2}
    assert read_status(tmp_path).cases == {"done": 2}


def test_paused_nothing_is_begun(tmp_path: Path) -> None:
    pool = ScriptedPool(on({}), 1)
    waits: list[int] = []
    wait = pool.wait

    def seen(timeout_s: float):
        waits.append(len(pool.given))
        if len(waits) == 3:
            set_paused(tmp_path, paused=True)
        if len(waits) == 8:
            set_paused(tmp_path, paused=False)
        return wait(timeout_s)

    pool.wait = seen
    assert run(tmp_path, pool).slides == {"done": 6}
    assert waits[3:8] == [waits[3]] * 5 and waits[8] == waits[3] + 1
    with pytest.raises(OutputError, match="is no archive's folder"):
        set_paused(tmp_path / "elsewhere", paused=True)


def test_slides_are_begun_at_the_rate_that_is_allowed(tmp_path: Path) -> None:
    now = [0.0]
    pool = ScriptedPool(on({}), 4)
    begun: list[tuple[float, int]] = []

    def do(worker: int, task: Task) -> Ended:
        begun.append((now[0], task.size))
        now[0] += 0.5
        return DONE

    def tick(timeout_s: float, wait: Callable = pool.wait):
        now[0] += 0.1
        return wait(timeout_s)

    pool._do, pool.wait = do, tick
    run(tmp_path, pool, clock=lambda: now[0], max_rate=100)
    sizes = [size for _, size in begun]
    for number, (at, _) in enumerate(begun[1:], 1):
        assert sum(sizes[:number]) <= 100 * at + max(sizes)
    assert begun[-1][0] > 4  # 600 bytes at 100 a second


def test_a_stop_leaves_what_is_done(tmp_path: Path) -> None:
    def do(worker: int, task: Task) -> Ended:
        if task.name == "s2":
            raise CancelledError("stopped")
        return DONE

    with pytest.raises(CancelledError):
        run(tmp_path, ScriptedPool(do, 1))
    status = read_status(tmp_path)
    assert status.slides == {"done": 3, "waiting": 3}
    assert status.outcome == "stopped by CancelledError"


def test_a_killed_run_is_told_from_one_under_way(tmp_path: Path) -> None:
    layout = ArchiveLayout(tmp_path)
    state = ArchiveState(layout.state)
    state.begin("predict", SLIDES, "here", 1, {"bundle": "b", "bundle_sha256": "0"})
    state.began("s5", 1)
    state.commit(now=True)
    assert read_status(tmp_path).activity == "stopped"
    with sole_writer(layout.state):
        status = read_status(tmp_path)
        assert (status.activity, status.slides) == ("running", {"running": 1, "waiting": 5})
        assert status.eta_s is None
        layout.pause.touch()
        assert read_status(tmp_path).activity == "paused"


def test_an_estimate_by_a_sample(tmp_path: Path) -> None:
    slides = [ArchiveSlide(f"s{number}", "", 10 * number) for number in range(101)]
    assert [slide.size for slide in sample_of(slides)] == [410, 710, 920]

    def do(worker: int, task: Task) -> Ended:
        assert isinstance(task, SampleTask)
        return failed(NoTissueError("none")) if task.name == "s41" else Ended("done", seconds=815.0)

    pool = ScriptedPool(do, 4)
    found = estimate(slides, pool)
    assert (found.slides, found.bytes, found.workers) == (101, 50_500, 4)
    assert (found.sample_bytes, found.seconds, found.failed) == (1630, 1630.0, {"s41": "none"})
    assert found.hours == pytest.approx(50_500 / 4 / 3600)
    assert pool.started == 1
    assert estimate(slides[:1], pool).hours is None
