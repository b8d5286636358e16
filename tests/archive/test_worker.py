"""One worker in this process: what it refuses, makes, leaves alone and gives up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.tasks import CaseTask, Ended, SlideTask, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

QUIET = {"heatmaps": False, "geojson": False, "html": False}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny.tiny_bundle(folder / "tiny.pgrt")
    for seed, name in enumerate("ab"):
        write_slide(folder / f"{name}.svs", (768, 768), seed=seed)
    return folder


def spec_of(inputs: Path, out: Path, **changes) -> WorkerSpec:
    with Bundle.open(inputs / "tiny.pgrt") as bundle:
        digest = bundle.sha256
    spec = WorkerSpec(
        kind="predict",
        bundle=str(inputs / "tiny.pgrt"),
        bundle_sha256=digest,
        out=str(out),
        predict=QUIET,
        engine={"backend": "onnxruntime", "threads": 1},
    )
    return replace(spec, **changes)


def opened(spec: WorkerSpec) -> Worker:
    worker = Worker(package_sha256(), vars(spec))
    assert worker.open().refusal == ""
    return worker


@pytest.fixture
def worker(inputs: Path, tmp_path: Path) -> Iterator[Worker]:
    worker = opened(spec_of(inputs, tmp_path))
    yield worker
    worker.close()


def task(inputs: Path, name: str, **more) -> SlideTask:
    return SlideTask(name, str(inputs / f"{name}.svs"), **more)


def left_behind(out: Path) -> list[Path]:
    return [path for path in ArchiveLayout(out).hidden.rglob("*") if path.is_file()]


def test_what_it_says_of_itself(inputs: Path, tmp_path: Path) -> None:
    worker = Worker(package_sha256(), vars(spec_of(inputs, tmp_path)))
    with pytest.raises(RuntimeError):
        worker.do(task(inputs, "a"), "1-1")
    hello = worker.open()
    assert (hello.pid, hello.refusal) == (os.getpid(), "")
    assert hello.engine.startswith("onnxruntime float32")
    worker.close()


def test_another_version_another_bundle_and_none_are_refused(inputs: Path, tmp_path: Path) -> None:
    spec = spec_of(inputs, tmp_path)
    assert "another version of pathgene-rt" in Worker("0" * 64, {}).open().refusal
    other = Worker(package_sha256(), vars(replace(spec, bundle_sha256="0" * 64))).open()
    assert "is another one here" in other.refusal and "copy it anew" in other.refusal
    gone = Worker(package_sha256(), vars(replace(spec, bundle=str(tmp_path / "no.pgrt"))))
    assert "no.pgrt" in gone.open().refusal


def test_a_slide_is_done_once_and_is_what_predict_makes(
    worker: Worker, inputs: Path, tmp_path: Path
) -> None:
    ended = worker.do(task(inputs, "a"), "1-1")
    assert (ended.outcome, ended.error) == ("done", None) and ended.tiles > 0
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    engine = EngineOptions(backend="onnxruntime", threads=1)
    with Predictor.open(inputs / "tiny.pgrt", engine) as predictor:
        alone = predictor.predict(inputs / "a.svs")
    assert report["slide"] == "a"
    assert report["predictions"] == [
        json.loads(json.dumps(one.to_dict())) for one in alone.predictions
    ]
    stamp = (tmp_path / "a" / "report.json").stat().st_mtime_ns
    assert worker.do(task(inputs, "a"), "1-1").outcome == "skipped"
    assert (tmp_path / "a" / "report.json").stat().st_mtime_ns == stamp
    assert left_behind(tmp_path) == []


def test_other_options_are_not_done_before(worker: Worker, inputs: Path, tmp_path: Path) -> None:
    worker.do(task(inputs, "a"), "1-1")
    again = worker.do(task(inputs, "a", mpp=0.51), "1-1")
    assert again.outcome == "done" and "--mpp differ" in again.note
    fresh = opened(spec_of(inputs, tmp_path, overwrite=True))
    assert fresh.do(task(inputs, "a", mpp=0.51), "1-1").outcome == "done"
    fresh.close()


def test_failures_are_told_and_leave_nothing(worker: Worker, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"nothing")
    ended = worker.do(SlideTask("bad", str(tmp_path / "bad.svs")), "1-1")
    assert (ended.outcome, ended.kind, ended.stops) == ("failed", "SlideOpenError", False)
    assert ended.error is not None and ended.error.exit_code == 3
    assert not (tmp_path / "bad").exists() and left_behind(tmp_path) == []


def test_a_slide_that_grows_while_it_is_read_gives_no_result(
    worker: Worker, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "g.svs"
    slide.write_bytes((inputs / "a.svs").read_bytes())
    predict = Predictor.predict

    def growing(self, path: Path, *given, **named):
        report = predict(self, path, *given, **named)
        with slide.open("ab") as file:
            file.write(b"more")
        return report

    monkeypatch.setattr(Predictor, "predict", growing)
    ended = worker.do(SlideTask("g", str(slide)), "1-1")
    assert ended.kind == "SlideReadError" and "changed while it was read" in ended.message
    assert not (tmp_path / "g").exists()


def test_two_at_the_same_time_leave_one_result(
    worker: Worker, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is a worker that was thought dead."""
    other = opened(spec_of(inputs, tmp_path))
    predict = Predictor.predict
    ends: list[Ended] = []

    def overtaken(self, path: Path, *given, **named):
        report = predict(self, path, *given, **named)
        if not ends:
            ends.append(Ended("done"))
            ends.append(other.do(task(inputs, "b"), "1-2"))
        return report

    monkeypatch.setattr(Predictor, "predict", overtaken)
    assert worker.do(task(inputs, "b"), "1-1").outcome == "done" and ends[1].outcome == "done"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".archive", "b"]
    assert worker.do(task(inputs, "b"), "1-1").outcome == "skipped"
    assert left_behind(tmp_path) == []
    other.close()


def test_features_alone(inputs: Path, tmp_path: Path) -> None:
    worker = opened(spec_of(inputs, tmp_path, kind="extract", predict={}))
    ended = worker.do(task(inputs, "a"), "1-1")
    assert ended.outcome == "done"
    assert len(read_features(tmp_path / "a.h5")) == ended.tiles
    assert worker.do(task(inputs, "a"), "1-1").outcome == "skipped"
    assert left_behind(tmp_path) == []
    worker.close()


def test_a_case_of_its_slides_features(worker: Worker, inputs: Path, tmp_path: Path) -> None:
    slides = tuple((name, str(inputs / f"{name}.svs")) for name in "ab")
    for name in "ab":
        assert worker.do(task(inputs, name, case="P1"), "1-1").outcome == "done"
    assert worker.do(CaseTask("P1", slides), "1-1").outcome == "done"
    found = json.loads((tmp_path / "cases" / "P1" / "case.json").read_text())
    assert [slide["slide"] for slide in found["slides"]] == ["a", "b"]
    assert worker.do(CaseTask("P1", slides), "1-1").outcome == "skipped"
    lost = worker.do(CaseTask("P2", slides, failed=("b",)), "1-1")
    assert lost.kind == "BatchError" and "because b.svs failed" in lost.message
    # A slide that is done anew takes the case that was made of it away.
    assert worker.do(task(inputs, "a", case="P1", mpp=0.51), "1-1").outcome == "done"
    assert not (tmp_path / "cases" / "P1" / "case.json").exists()
