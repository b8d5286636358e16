"""Two drivers of different machines at one place in a store: one of them runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathgene_rt.archive import lease as leases
from pathgene_rt.archive import start
from pathgene_rt.archive.lease import Lease
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.start import sole_run
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.tasks import Task
from pathgene_rt.cli import archive_run
from pathgene_rt.cli.main import app
from pathgene_rt.errors import OutputError
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.local_pool import LocalPool

fsspec = pytest.importorskip("fsspec", reason="needs the extra s3")

from tests.support.faulty_store import FaultyStore  # noqa: E402 - it is a file system of fsspec

OUT, STATE = "faulty://bucket/out", ".archive/state.sqlite"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectFolder]:
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    FaultyStore.reset()
    monkeypatch.setattr(leases, "LOOK_S", 0.05)
    yield ObjectFolder(OUT)
    FaultyStore.reset()


def lease(folder: ObjectFolder, machine: str, told: list[str] | None = None) -> Lease:
    return Lease(folder, machine, (told if told is not None else []).append)


def names(folder: ObjectFolder) -> list[str]:
    return sorted(folder.below(".archive"))


def check_one_runs(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch, renew_s: float) -> None:
    """That a run which goes on is not disturbed, and its place is free when it ends."""
    monkeypatch.setattr(leases, "RENEW_S", renew_s)
    told: list[str] = []
    with lease(folder, "one").held():
        with pytest.raises(OutputError, match=r"another archive run, on .*, writes to "):
            lease(folder, "two", told).held().__enter__()
        assert len(told) == 1 and told[0].endswith("seeing whether that run goes on")
        assert names(folder) == [".archive/leases/1"]
    assert names(folder) == []
    with lease(folder, "two").held():
        pass


def check_takes_over(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch, stale_s: float) -> None:
    """That a run which the store hears no more of loses its place, and is told so."""
    monkeypatch.setattr(leases, "RENEW_S", 600.0)
    monkeypatch.setattr(leases, "STALE_S", stale_s)
    lost = lease(folder, "one")
    with lost.held():
        with lease(folder, "two").held():
            assert names(folder) == [".archive/leases/2"]
            lost.renew()
            with pytest.raises(OutputError, match="another archive run took over"):
                lost.token.raise_if_cancelled()
        assert names(folder) == []


def test_of_two_drivers_one_runs(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_runs(folder, monkeypatch, 0.02)


def test_what_is_not_renewed_is_over(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    check_takes_over(folder, monkeypatch, 0.1)


def test_a_killed_run_of_this_machine_is_not_waited_for(folder: ObjectFolder) -> None:
    killed = lease(folder, "one")
    killed._take()
    with lease(folder, "one").held():
        assert names(folder) == [".archive/leases/2"]


def test_of_many_that_find_it_over_one_takes_it(
    folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has seen that the old one is over before any has written."""
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    lease(folder, "gone")._take()
    left, create = Lease._left, ObjectFolder.create
    seen, own = threading.Barrier(4), threading.local()

    def over_at_first(self: Lease, number: int) -> float | None:
        return None if number == 1 else left(self, number)

    def together(self: ObjectFolder, key: str, data: bytes) -> bool:
        if not hasattr(own, "wrote"):
            own.wrote = True
            seen.wait()
        return create(self, key, data)

    monkeypatch.setattr(Lease, "_left", over_at_first)
    monkeypatch.setattr(ObjectFolder, "create", together)
    got: list[int] = []
    refused: list[int] = []
    all_ended = threading.Event()

    def run(number: int) -> None:
        try:
            with lease(folder, f"machine {number}").held():
                got.append(number)
                all_ended.wait(60)
        except OutputError:
            refused.append(number)
            if len(refused) == 3:
                all_ended.set()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_a_run_has_the_place_for_itself(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "one"))
    with sole_run(OUT) as place:
        assert place.token is not None and ".archive/leases/1" in names(folder)
        monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "two"))
        with pytest.raises(OutputError, match="another archive run"), sole_run(OUT):
            pass
    assert names(folder) == []


def test_a_run_that_lost_its_place_ends_and_keeps_what_is_done(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    made: list[Lease] = []

    class Known(Lease):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    class Overtaken(LocalPool):
        def submit(self, worker: int, task: Task, name: str) -> None:
            super().submit(worker, task, name)
            assert folder.create(".archive/leases/2", b'{"machine": "another"}')
            folder.put(STATE, b"the other's")
            made[0].renew()

    monkeypatch.setattr(start, "Lease", Known)
    monkeypatch.setattr(archive_run, "RayPool", Overtaken)
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    slides = tmp_path / "slides"
    slides.mkdir()
    for seed, name in enumerate("abc"):
        write_slide(slides / f"{name}.svs", (768, 768), seed=seed)
    given = ("--bundle", bundle, "--out", OUT, "--engine", "onnxruntime")
    ended = CliRunner().invoke(app, [*map(str, ("archive", "extract", slides, *given))])
    assert isinstance(ended.exception, OutputError), ended.output
    assert "another archive run took over" in str(ended.exception)
    (key,) = StoredResults(ObjectFolder(OUT), tmp_path / "attempts").committed()
    assert key.endswith(".h5")
    assert names(folder) == [".archive/leases/2", STATE]
    assert folder.read(STATE) == b"the other's"
