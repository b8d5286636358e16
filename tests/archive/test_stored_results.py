"""Results in object stores: one a slide whatever fails, found again, collected and fetched."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pathgene_rt.archive import state_mirror, status, stores
from pathgene_rt.archive.collect import collect
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.start import sole_run
from pathgene_rt.archive.status import read_events, read_status
from pathgene_rt.archive.stored_results import COMMIT_FILE, StoredResults
from pathgene_rt.archive.tasks import SlideTask, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli import archive_run
from pathgene_rt.cli.main import app
from pathgene_rt.errors import OutputError
from pathgene_rt.predictor import Predictor
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.local_pool import LocalPool

fsspec = pytest.importorskip("fsspec", reason="needs the extra s3")

from tests.support.faulty_store import FaultyStore  # noqa: E402 - it is a file system of fsspec

OUT = "faulty://bucket/out"
QUIET = {"heatmaps": False, "geojson": False, "html": False}
PLAIN = ("--no-html", "--no-heatmaps", "--no-geojson", "--engine", "onnxruntime")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of one case, and a bundle."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.tiny_bundle(folder / "tiny.pgrt")
    for seed, name in enumerate("ab"):
        write_slide(folder / f"{name}.svs", (768, 768), seed=seed)
    (folder / "cases.csv").write_text("slide,case\na.svs,P1\nb.svs,P1\n")
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    monkeypatch.setattr(stores, "WAIT_S", 0.0)
    monkeypatch.setattr(archive_run, "RayPool", LocalPool)
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "cache"))
    FaultyStore.reset()
    yield FaultyStore()
    FaultyStore.reset()


def opened(inputs: Path, tmp_path: Path, **changes) -> Worker:
    with Bundle.open(inputs / "tiny.pgrt") as bundle:
        digest = bundle.sha256
    given = {
        "kind": "predict",
        "bundle": str(inputs / "tiny.pgrt"),
        "bundle_sha256": digest,
        "out": OUT,
        "predict": QUIET,
        "engine": {"backend": "onnxruntime", "threads": 1},
        "stage": str(tmp_path),
    }
    worker = Worker(package_sha256(), vars(WorkerSpec(**{**given, **changes})))
    assert worker.open().refusal == ""
    return worker


@pytest.fixture
def worker(inputs: Path, tmp_path: Path) -> Iterator[Worker]:
    worker = opened(inputs, tmp_path)
    yield worker
    worker.close()
    assert not list(tmp_path.glob("pgrt-stage-*"))


def task(inputs: Path, name: str, **more) -> SlideTask:
    return SlideTask(name, str(inputs / f"{name}.svs"), **more)


def objects() -> list[str]:
    """What lies in the store, without the numbers of attempts."""
    return sorted(name.removeprefix("/bucket/out/") for name in FaultyStore.store)


def test_a_slide_is_done_once_and_found_again(worker: Worker, inputs: Path) -> None:
    ended = worker.do(task(inputs, "a"), "1-1")
    assert (ended.outcome, ended.error) == ("done", None) and ended.tiles > 0
    assert objects() == ["a/1-1/report.json", f"a/{COMMIT_FILE}"]
    assert worker.do(task(inputs, "a"), "1-2").outcome == "skipped"
    again = worker.do(task(inputs, "a", mpp=0.51), "1-3")
    assert again.outcome == "done" and "--mpp differ" in again.note
    assert objects() == ["a/1-3/report.json", f"a/{COMMIT_FILE}"]


def test_of_two_at_the_same_time_one_result_stays(
    worker: Worker, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second commits between the first one's last look and its own commit."""
    other = opened(inputs, tmp_path)
    outcomes: list[str] = []

    def overtake(path: str) -> None:
        if path.endswith(f"a/{COMMIT_FILE}") and not outcomes:
            outcomes.append("")
            outcomes[0] = other.do(task(inputs, "a"), "1-2").outcome

    FaultyStore.before_write = overtake
    assert worker.do(task(inputs, "a"), "1-1").outcome == "done" and outcomes == ["done"]
    assert objects() == ["a/1-2/report.json", f"a/{COMMIT_FILE}"]
    other.close()


def test_a_worker_that_was_thought_dead_publishes_nothing_twice(
    worker: Worker, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt is dropped and made by another while it goes on."""
    other, predict = opened(inputs, tmp_path), Predictor.predict
    results = StoredResults(ObjectFolder(OUT), tmp_path)
    begun: list[bool] = []

    def slow(self, path: Path, *given, **named):
        report = predict(self, path, *given, **named)
        if not begun:
            begun.append(results.drop_attempt("1-1"))
            assert other.do(task(inputs, "a"), "1-2").outcome == "done"
        return report

    monkeypatch.setattr(Predictor, "predict", slow)
    assert worker.do(task(inputs, "a"), "1-1").outcome == "done" and begun == [True]
    assert objects() == ["a/1-2/report.json", f"a/{COMMIT_FILE}"]
    assert results.drop_attempt("1-7") is False
    other.close()


def test_what_a_killed_worker_left_goes_when_another_is_done(
    worker: Worker, inputs: Path, tmp_path: Path
) -> None:
    results = StoredResults(ObjectFolder(OUT), tmp_path)
    results.folder.put(".archive/attempts/0-9", b"a")
    results.folder.put("a/0-9/report.json", b"half")
    assert results.drop_attempt("0-9") and "a/0-9/report.json" in objects()  # it may be alive
    worker.do(task(inputs, "a"), "1-1")
    results.drop_attempts()
    assert objects() == ["a/1-1/report.json", f"a/{COMMIT_FILE}"]


@pytest.mark.parametrize("seed", range(5))
def test_faults_of_the_store_cost_no_result_and_double_none(
    worker: Worker, inputs: Path, seed: int
) -> None:
    FaultyStore.share, FaultyStore.chance = 0.3, random.Random(seed)
    ended = worker.do(task(inputs, "a"), "1-1")
    FaultyStore.share = 0.0
    assert sum(FaultyStore.faults.values()) > 0
    if ended.outcome == "failed":
        assert "the store failed 5 times" in ended.message and "Signature" not in ended.message
    assert worker.do(task(inputs, "a"), "1-2").error is None
    assert sum(name.endswith(COMMIT_FILE) for name in objects()) == 1
    commit = StoredResults(ObjectFolder(OUT), Path()).commit_of("a")
    assert commit is not None
    assert all(f"a/{commit.attempt}/{name}" in objects() for name in commit.files)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["archive", *map(str, arguments)])


def test_a_run_is_looked_at_gone_on_with_collected_and_fetched(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra ray")
    given = ("--bundle", inputs / "tiny.pgrt", "--out", OUT, *PLAIN)
    run = ("predict", inputs / "cases.csv", *given)
    first = command(*run, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["cases"] == {"done": 1}
    assert read_status(OUT).slides == {"done": 2} and read_status(OUT).activity == "ended"
    assert any("opened on" in what for _, what in read_events(OUT))
    assert not [name for name in objects() if "attempts" in name]
    # On another machine, which knows nothing of it.
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "another"))
    again = json.loads(command(*run, "--json").stdout)
    assert again == {"slides": {"skipped": 2}, "cases": {"skipped": 1}, "failures": {}}
    local = tmp_path / "local"
    alone = command(*("predict", inputs / "cases.csv", *given[:2], "--out", local, *PLAIN))
    assert alone.exit_code == 0, alone.output
    (tmp_path / "there").mkdir()
    there, here = collect(OUT, tmp_path / "there"), collect(local)
    assert (there.predictions, there.slides, there.features) == (4, 2, 2)
    assert there.unreadable == here.unreadable == {}
    for name, differ in (
        ("predictions", {"created", "seconds", "report"}),
        ("features", {"file", "bytes"}),
    ):
        tables = [
            parquet.read_table(folder / f"{name}.parquet").drop_columns(sorted(differ)).to_pylist()
            for folder in (tmp_path / "there", local)
        ]
        assert tables[0] == tables[1]
    fetched = command("fetch", OUT, "--out", tmp_path / "fetched", "--json")
    assert json.loads(fetched.stdout)["new"] == ["a", "b", "cases/P1"]
    assert json.loads(command("fetch", OUT, "-o", tmp_path / "fetched", "--json").stdout) == {
        "results": 3,
        "new": [],
    }
    for name in ("a/report.json", "cases/P1/case.json"):
        documents = [
            json.loads((folder / name).read_text()) for folder in (tmp_path / "fetched", local)
        ]
        assert documents[0]["predictions"] == documents[1]["predictions"]
    taken = command(
        "predict", inputs / "cases.csv", *given[:2], "--out", tmp_path / "fetched", *PLAIN, "--json"
    )
    assert json.loads(taken.stdout)["slides"] == {"skipped": 2}


def test_features_of_a_store(inputs: Path, tmp_path: Path) -> None:
    worker = opened(inputs, tmp_path, kind="extract", predict={})
    assert worker.do(task(inputs, "a"), "1-1").outcome == "done"
    assert objects() == ["a.h5/1-1/a.h5", f"a.h5/{COMMIT_FILE}"]
    assert worker.do(task(inputs, "a"), "1-2").outcome == "skipped"
    assert command("fetch", OUT, "--out", tmp_path / "fetched").exit_code == 0
    assert (tmp_path / "fetched" / "a.h5").is_file()
    results = StoredResults(ObjectFolder(OUT), tmp_path)
    with pytest.raises(OutputError, match="is of another encoder"):
        results.earlier_features("a.h5", "0" * 64, lambda: pytest.fail("not asked for"))
    worker.close()


def test_a_store_without_conditional_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write = FaultyStore.pipe_file
    monkeypatch.setattr(
        FaultyStore, "pipe_file", lambda self, path, value, mode="": write(self, path, value)
    )
    with pytest.raises(OutputError, match="takes no conditional writes"), sole_run(OUT):
        pass
    assert objects() == []


def test_a_run_in_a_store_is_paused_and_seen_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="is no archive's folder"):
        read_status(OUT)
    with sole_run(OUT) as place:
        from pathgene_rt.archive.state import ArchiveState

        assert place.mirror is not None
        with ArchiveState(place.layout.state) as state:
            state.begin("predict", [], "here", 1, {"bundle": "b", "bundle_sha256": "0"})
            state.commit(now=True)
            place.mirror.send()
            assert read_status(OUT).activity == "running"
            assert command("pause", OUT).exit_code == 0
            assert place.results.paused() and read_status(OUT).activity == "paused"
            assert command("continue", OUT).exit_code == 0
            monkeypatch.setattr(status, "GONE_S", -1.0)
            assert read_status(OUT).activity == "stopped"


def test_the_state_is_copied_meanwhile_and_what_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_mirror, "MIRROR_S", 0.01)
    told: list[str] = []

    def refuse(path: str) -> None:
        if path.endswith("state.sqlite") and not told:
            raise PermissionError(13, "no")

    with sole_run(OUT, told.append) as place:
        assert place.mirror is not None
        place.layout.state.write_bytes(b"")
        FaultyStore.before_write = refuse
        with place.mirror.meanwhile():
            until = time.monotonic() + 10
            while ".archive/state.sqlite" not in objects() and time.monotonic() < until:
                time.sleep(0.01)
            assert ".archive/state.sqlite" in objects()
    assert len(told) == 1 and told[0].startswith("the state is not in the store yet")
