"""Results in S3, as moto's server has it: conditional writes over HTTP by s3fs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathgene_rt.archive import lease, stores
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.stored_results import Commit, StoredResults
from tests.archive.test_lease import check_one_runs, check_takes_over

pytestmark = pytest.mark.world

pytest.importorskip("s3fs", reason="needs the extra s3")
moto_server = pytest.importorskip("moto.server", reason="needs moto")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectFolder]:
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "WAIT_S", 0.01)
    boto3.client("s3").create_bucket(Bucket="results")
    yield ObjectFolder(f"s3://results/{tmp_path.name}")  # moto's buckets are the process's
    server.stop()


def test_conditional_writes(folder: ObjectFolder) -> None:
    folder.require_conditional_writes()
    assert list(folder.below()) == []
    assert folder.create("a/result.json", b"first")
    assert not folder.create("a/result.json", b"second")
    assert folder.create("a/result.json", b"first")  # the answer to it was lost
    assert folder.read("a/result.json") == b"first"
    folder.remove("a/result.json")
    assert folder.read("a/result.json") is None and not folder.has("a/result.json")
    assert folder.create("a/result.json", b"second")


def test_of_two_workers_one_commits(folder: ObjectFolder, tmp_path: Path) -> None:
    first, second = (StoredResults(folder, tmp_path / name) for name in ("first", "second"))
    with first.attempt("1-1", "cases/P1") as one, second.attempt("1-2", "cases/P1") as two:
        for place in (one, two):
            (place / "P1").mkdir()
            (place / "P1" / "case.json").write_text(place.name)

        def overtaken() -> bool:
            return True

        assert first.publish(one / "P1", "1-1", "cases/P1", None, overtaken)
        assert not second.publish(two / "P1", "1-2", "cases/P1", None, overtaken)
    assert first.commit_of("cases/P1") == Commit(attempt="1-1", files={"case.json": 3})
    assert sorted(folder.below()) == ["cases/P1/1-1/case.json", "cases/P1/result.json"]
    assert list(first.committed()) == ["cases/P1"]
    first.fetch("cases/P1", first.commit_of("cases/P1"), tmp_path / "here")  # type: ignore[arg-type]
    assert (tmp_path / "here" / "case.json").read_text() == "1-1"


def test_of_two_drivers_one_runs(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of S3 are whole seconds."""
    monkeypatch.setattr(lease, "LOOK_S", 0.5)
    check_one_runs(folder, monkeypatch, 0.3)
    check_takes_over(folder, monkeypatch, 1.5)
