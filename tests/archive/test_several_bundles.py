"""Features by several bundles in one pass over each slide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.archive import work
from pathgene_rt.archive.fetch import fetch
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.start import several_bundles
from pathgene_rt.archive.stored_results import COMMIT_FILE, StoredResults
from pathgene_rt.archive.tasks import Kind, SlideTask, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.cli import archive_run
from pathgene_rt.cli.main import app
from pathgene_rt.errors import EngineError, UsageError
from pathgene_rt.slides.tiff.encoded_tiles import EncodedTiles
from pathgene_rt.training.data.feature_files import find_feature_files
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.local_pool import LocalPool

fsspec = pytest.importorskip("fsspec", reason="needs the extra s3")

from tests.support.faulty_store import FaultyStore  # noqa: E402 - it is a file system of fsspec

ENGINE = {"backend": "onnxruntime", "threads": 1}
BUNDLES = {"one": {"seed": 1}, "two": {"seed": 7}, "coarse": {"seed": 9, "mpp": 1.0}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, three bundles of which the last has another scale, and in ``alone`` the features of
    each by ``extract``."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "slides").mkdir()
    slide = folder / "slides" / "a.svs"
    write_slide(slide, (768, 768), seed=0)
    for name, options in BUNDLES.items():
        bundle = tiny.tiny_bundle(folder / f"{name}.pgrt", **options)
        (folder / "alone" / name).mkdir(parents=True)
        with Predictor.open(bundle, EngineOptions(**ENGINE)) as predictor:
            predictor.extract(slide, out=folder / "alone" / name / "a.h5")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often each encoded tile, (level, number), was read and decoded."""
    found: Counter[tuple[int, int]] = Counter()
    decode = EncodedTiles._decode

    def counted(self: EncodedTiles, file: Any, number: int, out: Any) -> None:
        found[self._level, number] += 1
        decode(self, file, number, out)

    monkeypatch.setattr(EncodedTiles, "_decode", counted)
    return found


def opened(inputs: Path, out: Path | str, *names: str, kind: Kind = "extract") -> Worker:
    first, *more = several_bundles([inputs / f"{name}.pgrt" for name in names])
    spec = WorkerSpec(kind, *first, str(out), engine=ENGINE, more_bundles=tuple(more))
    worker = Worker(package_sha256(), vars(spec))
    assert worker.open().refusal == ""
    return worker


def task(inputs: Path) -> SlideTask:
    return SlideTask("a", str(inputs / "slides" / "a.svs"))


def same_as_alone(inputs: Path, out: Path, *names: str) -> bool:
    files = [(out / name / "a.h5", inputs / "alone" / name / "a.h5") for name in names]
    return all(found.read_bytes() == alone.read_bytes() for found, alone in files)


def test_tiles_of_equal_scale_are_read_once_for_all(
    inputs: Path, tmp_path: Path, decoded: Counter[tuple[int, int]]
) -> None:
    with Predictor.open(inputs / "one.pgrt", EngineOptions(**ENGINE)) as predictor:
        tiles = len(predictor.extract(inputs / "slides" / "a.svs")[0])
    alone = decoded.copy()
    decoded.clear()
    worker = opened(inputs, tmp_path, "one", "two")
    ended = worker.do(task(inputs), "1-1")
    assert (ended.outcome, ended.tiles, ended.message) == ("done", 2 * tiles, "")
    assert alone and decoded == alone
    assert same_as_alone(inputs, tmp_path, "one", "two")
    assert [*find_feature_files(tmp_path / "two")] == ["a"]
    worker.close()


def test_another_scale_is_planned_apart(inputs: Path, tmp_path: Path) -> None:
    worker = opened(inputs, tmp_path, *BUNDLES)
    assert worker.do(task(inputs), "1-1").outcome == "done"
    assert same_as_alone(inputs, tmp_path, *BUNDLES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".archive", *sorted(BUNDLES)]
    worker.close()


def test_what_is_done_is_told_by_bundle(
    inputs: Path, tmp_path: Path, decoded: Counter[tuple[int, int]]
) -> None:
    def run(*names: str) -> str:
        worker = opened(inputs, tmp_path, *names)
        ended = worker.do(task(inputs), "1-1")
        worker.close()
        return ended.outcome

    assert run("one", "two") == "done"
    assert run("one", "two") == "skipped"
    stamps = [(tmp_path / name / "a.h5").stat() for name in ("one", "two")]
    assert run("two", "coarse", "one") == "done"
    assert stamps == [(tmp_path / name / "a.h5").stat() for name in ("one", "two")]
    (tmp_path / "two" / "a.h5").unlink()
    assert run(*BUNDLES) == "done" and same_as_alone(inputs, tmp_path, *BUNDLES)


def test_an_encoder_that_fails_costs_the_others_nothing(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = work.extract

    def failing(predictors: Sequence[Predictor], *rest: Any) -> int:
        if any(predictor.bundle.path.stem == "two" for predictor in predictors):
            raise EngineError("features that are not finite")
        return extract(predictors, *rest)

    monkeypatch.setattr(work, "extract", failing)
    worker = opened(inputs, tmp_path, *BUNDLES)
    ended = worker.do(task(inputs), "1-1")
    assert (ended.kind, ended.message) == ("EngineError", "two: features that are not finite")
    assert "one, two are encoded apart" in ended.note
    assert same_as_alone(inputs, tmp_path, "one", "coarse")
    assert not (tmp_path / "two" / "a.h5").exists()
    worker.close()


@pytest.fixture
def store() -> Iterator[type[FaultyStore]]:
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    FaultyStore.reset()
    yield FaultyStore
    FaultyStore.reset()


@pytest.mark.usefixtures("store")
def test_each_has_its_commit_in_a_store(inputs: Path, tmp_path: Path) -> None:
    url = "faulty://bucket/out"
    worker = opened(inputs, url, "one", "two")
    assert worker.do(task(inputs), "1-1").outcome == "done"
    assert worker.do(task(inputs), "1-2").outcome == "skipped"
    worker.close()
    results = StoredResults(ObjectFolder(url), tmp_path / "attempts")
    assert [*results.committed()] == ["one/a.h5", "two/a.h5"]
    assert fetch(url, tmp_path / "here", lambda *_: None) == 2
    assert same_as_alone(inputs, tmp_path / "here", "one", "two")
    # A worker that was thought dead after one of its two results keeps what it may still commit.
    keys = ("one/b.h5", "two/b.h5")
    with results.attempt("1-3", *keys):
        results.folder.put("two/b.h5/1-3/b.h5", b"features")
        results.folder.put(f"one/b.h5/{COMMIT_FILE}", results.folder.read(_commit("one")) or b"")
        assert results.drop_attempt("1-3") and results.folder.has("two/b.h5/1-3/b.h5")
        results.folder.put(f"two/b.h5/{COMMIT_FILE}", results.folder.read(_commit("two")) or b"")
        assert results.drop_attempt("1-3") and not results.folder.has("two/b.h5/1-3/b.h5")


def _commit(bundle: str) -> str:
    return f"{bundle}/a.h5/{COMMIT_FILE}"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_and_its_table(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra ray")
    monkeypatch.setattr(archive_run, "RayPool", LocalPool)
    bundles = [part for name in BUNDLES for part in ("--bundle", inputs / f"{name}.pgrt")]
    given = ("archive", "extract", inputs / "slides", "--out", tmp_path, *bundles)
    done = command(*given, "--engine", "onnxruntime", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["slides"] == {"done": 1}
    assert same_as_alone(inputs, tmp_path, *BUNDLES)
    status = json.loads(command("archive", "status", tmp_path, "--json").stdout)
    assert status["bundle"] == "one.pgrt, two.pgrt, coarse.pgrt"
    assert command("archive", "collect", tmp_path, "--quiet").exit_code == 0
    rows = parquet.read_table(tmp_path / "features.parquet").to_pylist()
    assert [row["file"] for row in rows] == [f"{name}/a.h5" for name in sorted(BUNDLES)]
    assert {row["slide"] for row in rows} == {"a"}
    assert len({row["encoder_sha256"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (("sub/one.pgrt",), "have the same name"),
        (("copy.pgrt",), "have the same encoder; name one"),
        (("cases.pgrt",), "cannot name a folder; rename the bundle"),
    ],
)
def test_bundles_that_cannot_go_together(
    inputs: Path, tmp_path: Path, others: tuple[str, ...], words: str
) -> None:
    paths = [inputs / "one.pgrt"]
    for other in others:
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((inputs / "one.pgrt").read_bytes())
        paths.append(path)
    with pytest.raises(UsageError, match=words):
        several_bundles(paths)
