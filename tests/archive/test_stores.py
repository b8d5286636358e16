"""Slides of object stores, and stores that fail."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.archive import staging, stores
from pathgene_rt.archive.ranges import RangedFile, by_ranges
from pathgene_rt.archive.run import MAX_DEATHS
from pathgene_rt.archive.source import ArchiveSlide, find_archive
from pathgene_rt.archive.staging import Staging
from pathgene_rt.archive.stores import StoredSlide, is_url, list_store, shown_url
from pathgene_rt.archive.tasks import SlideTask, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import (
    EngineError,
    MissingExtraError,
    SlideOpenError,
    SlideReadError,
    UsageError,
)
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.find import find_slides
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.training.synthetic.slides import write_slide
from tests.archive.test_run import DONE, run
from tests.support import tiny_models as tiny
from tests.support.dicom_slides import DicomLayout, write_dicom
from tests.support.scripted_pool import ScriptedPool

fsspec = pytest.importorskip("fsspec", reason="needs the extra s3")

from tests.support.faulty_store import FaultyStore  # noqa: E402 - it is a file system of fsspec

SLIDE = "faulty://bucket/2024/a.svs"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.svs"
    write_slide(path, (768, 768), seed=0)
    return path


@pytest.fixture(autouse=True)
def store(slide: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    monkeypatch.setattr(stores, "WAIT_S", 0.0)
    FaultyStore.reset()
    store = FaultyStore()
    store.pipe_file("/bucket/2024/a.svs", slide.read_bytes())
    yield store
    FaultyStore.reset()


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[Staging]:
    staging = Staging(str(tmp_path))
    yield staging
    staging.close()
    assert not list(tmp_path.glob("pgrt-stage-*"))


def test_what_is_an_address() -> None:
    assert is_url("s3://bucket/a.svs") and is_url("https://host/a.svs")
    assert not is_url("/a.svs") and not is_url("C:\\a.svs") and not is_url("a.svs")
    assert shown_url("https://me:secret@host/a.svs?sig=1") == "https://host/a.svs"


def test_slides_of_a_store_are_listed(store: FaultyStore, tmp_path: Path) -> None:
    store.pipe_file("/bucket/2024/deep/b.tif", b"xx")
    store.pipe_file("/bucket/2024/notes.txt", b"x")
    for name, data in (("c.mrxs", b"x"), ("c/Slidedat.ini", b"xx"), ("c/Data0000.dat", b"xxx")):
        store.pipe_file(f"/bucket/2024/{name}", data)
    for name in ("2.dcm", "1.dcm"):
        store.pipe_file(f"/bucket/2024/d/{name}", b"xx")
    size = store.size("/bucket/2024/a.svs")
    assert list_store("faulty://bucket/2024") == [
        ("faulty:///bucket/2024/a.svs", size),
        ("faulty:///bucket/2024/c.mrxs", 6),
        ("faulty:///bucket/2024/d/1.dcm", 4),
        ("faulty:///bucket/2024/deep/b.tif", 2),
    ]
    slides = find_archive("faulty://bucket/2024", tmp_path, print)
    assert [(one.slide_id, one.size) for one in slides] == [
        ("a", size),
        ("c", 6),
        ("1", 4),
        ("b", 2),
    ]
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"url,case\n{SLIDE},P1\n")
    (listed,) = find_archive(str(manifest), tmp_path, print)
    assert (listed.source, listed.slide_id, listed.case) == (SLIDE, "a", "P1")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:secret@host/a.svs", "with a password or a signature"),
        ("https://host/a.svs?X-Amz-Signature=secret", "with a password or a signature"),
        ("nowhere://host/a.svs", "no kind of store"),
        ("faulty://bucket/2023", "cannot be|cannot list|holds no slide"),
        ("faulty://bucket/m.csv", "copy the manifest"),
    ],
)
def test_addresses_that_are_refused_without_repeating_a_secret(
    url: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        find_archive(url, tmp_path, print)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def missing(*_: object, **__: object) -> None:
        raise ImportError("no gcsfs", name="gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match="gs:// needs gcsfs; run pip install gcsfs"):
        StoredSlide("gs://bucket/a.svs")
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[s3\]"):
        StoredSlide("s3://bucket/a.svs")


def test_a_fingerprint_takes_a_few_ranges_and_is_that_of_the_file(
    slide: Path, staged: Staging
) -> None:
    stored = StoredSlide(SLIDE)
    found = stored.fingerprint()
    assert found.content_sha256 == SlideFingerprint.of(slide).content_sha256
    with staged.staged(stored) as path:
        assert SlideFingerprint.of(path) == found
        assert path.read_bytes() == slide.read_bytes() and path.suffix == ".svs"
    assert not path.exists()


@pytest.mark.parametrize("seed", range(5))
def test_every_fault_is_tried_again_or_a_clear_failure(
    slide: Path, staged: Staging, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Never a wrong byte: 100 faults or more for each seed."""
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1 << 16)
    FaultyStore.share, FaultyStore.chance = 0.3, random.Random(seed)
    content, fetched = slide.read_bytes(), 0
    while sum(FaultyStore.faults.values()) < 100:
        try:
            with staged.staged(StoredSlide(SLIDE)) as path:
                assert path.read_bytes() == content
            fetched += 1
        except SlideReadError as error:
            assert "the store failed 5 times" in str(error)
            assert "secret" not in str(error) and "Signature" not in str(error)
    assert fetched > 0


def test_an_object_that_changes_between_two_reads_gives_no_result(
    store: FaultyStore, staged: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1 << 16)
    reads: list[str] = []

    def change(path: str) -> None:
        reads.append(path)
        if len(reads) == 3:
            time.sleep(0.001)
            store.pipe_file("/bucket/2024/a.svs", bytes(len(store.store[path].getvalue())))

    FaultyStore.before_read = staticmethod(change)
    with (
        pytest.raises(SlideReadError, match="changed while it was read"),
        staged.staged(StoredSlide(SLIDE)),
    ):
        pass


def test_what_is_not_there_is_not_asked_for_again(store: FaultyStore) -> None:
    with pytest.raises(SlideOpenError, match=r"b.svs: FileNotFoundError.*check the address"):
        StoredSlide("faulty://bucket/b.svs").version()


def test_the_limit_of_a_disk_is_kept(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging_ = Staging(str(tmp_path), limit=slide.stat().st_size - 1)
    with (
        pytest.raises(SlideReadError, match="raise --stage-limit"),
        staging_.staged(StoredSlide(SLIDE)),
    ):
        pass
    staging_.close()
    room = Staging(str(tmp_path), limit=slide.stat().st_size)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "truncate", full)
    with (
        pytest.raises(EngineError, match=r"No space left.*--stage"),
        room.staged(StoredSlide(SLIDE)),
    ):
        pass
    monkeypatch.undo()
    with room.staged(StoredSlide(SLIDE)):
        pass  # what was begun has given its room back
    room.close()


def test_a_slide_of_several_objects_is_staged_with_all_of_them(
    store: FaultyStore, staged: Staging, tmp_path: Path
) -> None:
    local = tmp_path / "local" / "m.mrxs"
    parts = {"m.mrxs": b"head", "m/Slidedat.ini": b"[GENERAL]", "m/Data0000.dat": b"pixels" * 99}
    for name, data in parts.items():
        path = local.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        store.pipe_file(f"/bucket/2024/{name}", data)
    store.pipe_file("/bucket/2024/m.txt", b"of somebody else")
    slide = StoredSlide("faulty://bucket/2024/m.mrxs")
    found = slide.fingerprint()
    assert found.content_sha256 == SlideFingerprint.of(local).content_sha256
    with staged.staged(slide) as path:
        there = {
            one.relative_to(path.parent).as_posix(): one.read_bytes()
            for one in path.parent.rglob("*")
            if one.is_file()
        }
    assert there == parts and not path.parent.exists()
    store.pipe_file("/bucket/2024/m/Data0000.dat", b"others")
    assert slide.fingerprint() != found  # what was read may be of either
    store.rm_file("/bucket/2024/m/Slidedat.ini")
    with pytest.raises(SlideOpenError, match=r"Slidedat\.ini is not beside it"):
        slide.fingerprint()


def test_a_dicom_series_is_done_as_the_folder_of_its_files(
    store: FaultyStore, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    noise = np.random.default_rng(0).integers(-15, 15, (1024, 1024, 1))
    pixels = (np.array([205, 130, 175]) + noise).astype(np.uint8)
    levels = [pixels, pixels[::4, ::4]]
    files = write_dicom(tmp_path / "local", levels, DicomLayout("explicit", tile_px=256))
    for path in files:
        store.pipe_file(f"/bucket/series/{path.name}", path.read_bytes())
    ((url, size),) = list_store("faulty://bucket/series")
    assert size == sum(path.stat().st_size for path in files)
    (local,) = find_slides([str(tmp_path / "local")])
    worker = worker_of(tmp_path)
    for name, source in (("there", url), ("here", str(local))):
        ended = worker.do(SlideTask(name, source), name)
        assert ended.outcome == "done", ended.message
    there, here = (read_features(tmp_path / "out" / f"{one}.h5") for one in ("there", "here"))
    assert (there.features == here.features).all()
    (tmp_path / "other").mkdir()
    layout = DicomLayout("explicit", tile_px=256, number=2)
    (other,) = write_dicom(tmp_path / "other", levels[:1], layout, "z")
    store.pipe_file(f"/bucket/series/{other.name}", other.read_bytes())
    mixed = worker.do(SlideTask("mixed", url), "mixed")
    assert mixed.kind == "SlideOpenError" and "holds 2 slides" in mixed.message
    worker.close()


def worker_of(tmp_path: Path, *, ranges: bool = False) -> Worker:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    with Bundle.open(bundle) as opened:
        digest = opened.sha256
    spec = WorkerSpec(
        "extract",
        str(bundle),
        digest,
        str(tmp_path / "out"),
        engine={"backend": "onnxruntime", "threads": 1},
        stage=str(tmp_path),
        stage_limit=10**9,
        ranges=ranges,
    )
    (tmp_path / "out").mkdir()
    worker = Worker(package_sha256(), asdict(spec))
    assert worker.open().refusal == ""
    return worker


def test_a_worker_does_a_stored_slide_as_a_file(slide: Path, tmp_path: Path) -> None:
    worker = worker_of(tmp_path)
    stored, local = SlideTask("a", SLIDE), SlideTask("here", str(slide))
    worker.prepare(stored)
    assert worker.do(stored, "1").outcome == "done"
    assert worker.do(local, "2").outcome == "done"
    assert (
        read_features(tmp_path / "out" / "a.h5").features
        == read_features(tmp_path / "out" / "here.h5").features
    ).all()
    FaultyStore.bytes_sent = 0
    worker.prepare(stored)  # nothing is fetched of a slide that is done
    again = worker.do(stored, "3")
    assert (again.outcome, again.note) == ("skipped", "")
    assert FaultyStore.bytes_sent < slide.stat().st_size
    worker.close()
    assert not list(tmp_path.glob("pgrt-stage-*"))


@pytest.fixture
def sparse(store: FaultyStore, tmp_path: Path) -> Path:
    """A slide of which most is glass, in the store, too."""
    path = tmp_path / "b.svs"
    write_slide(path, (3072, 3072), seed=3)
    store.pipe_file("/bucket/b.svs", path.read_bytes())
    return path


def test_by_ranges_only_what_is_read_is_fetched(sparse: Path, tmp_path: Path) -> None:
    stored = StoredSlide("faulty://bucket/b.svs")
    FaultyStore.bytes_sent = 0
    with by_ranges(stored, stored.fingerprint(), tmp_path, None) as (given, file):
        begun = file.fetched
        with given.open() as ours, open_slide(sparse) as theirs:
            assert (ours.info.size_px, ours.info.mpp) == (theirs.info.size_px, theirs.info.mpp)
            for corner in ((0, 0), (1000, 2000)):
                region = corner, 0, (256, 256)
                assert np.array_equal(ours.read(*region), theirs.read(*region))
            once = file.fetched
        with given.open() as ours:
            ours.read((1000, 2000), 0, (256, 256))
        assert begun < once < file.size and file.fetched == once
    assert FaultyStore.bytes_sent < file.size


def test_a_worker_reads_by_ranges_what_it_reads_of_a_file(sparse: Path, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, ranges=True)
    FaultyStore.share = 0.3
    remote = worker.do(SlideTask("b", "faulty://bucket/b.svs"), "1")
    assert remote.outcome == "done", remote.message
    assert sum(FaultyStore.faults.values()) > 0
    assert FaultyStore.bytes_sent < 0.8 * sparse.stat().st_size
    assert worker.do(SlideTask("here", str(sparse)), "2").outcome == "done"
    bags = [read_features(tmp_path / "out" / f"{name}.h5") for name in ("b", "here")]
    assert np.array_equal(bags[0].features, bags[1].features)
    FaultyStore.share = 0.0
    assert worker.do(SlideTask("b", "faulty://bucket/b.svs"), "3").outcome == "skipped"
    worker.close()


def test_what_lies_close_together_is_fetched_together(store: FaultyStore, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
    store.pipe_file("/bucket/x.svs", data)
    asked: list[str] = []
    FaultyStore.before_read = staticmethod(asked.append)
    file = RangedFile(StoredSlide("faulty://bucket/x.svs"), tmp_path / "x")
    places = [(100 + 1000 * number, 900) for number in range(2000)]
    file.expect([*places, (2_900_000, 50)])
    for offset, count in places:
        assert file.read(offset, count) == data[offset : offset + count]
    assert len(asked) == 2  # two runs of up to a megabyte
    assert file.read(2_900_000, 50) == data[2_900_000:2_900_050]
    assert file.read(2_500_000, 10) == data[2_500_000:2_500_010]
    assert file.read(2_999_990, 100) == data[-10:]
    assert len(asked) == 5 and file.fetched < 2_100_000
    file.free()


def test_an_object_that_changes_while_ranges_are_read_gives_no_result(
    store: FaultyStore, sparse: Path, tmp_path: Path
) -> None:
    worker = worker_of(tmp_path, ranges=True)
    reads: list[str] = []

    def change(path: str) -> None:
        reads.append(path)
        if len(reads) == 12:
            store.pipe_file("/bucket/b.svs", sparse.read_bytes() + b"more")

    FaultyStore.before_read = staticmethod(change)
    ended = worker.do(SlideTask("b", "faulty://bucket/b.svs"), "1")
    assert ended.kind == "SlideReadError" and "changed while it was read" in ended.message
    assert not (tmp_path / "out" / "b.h5").exists()
    worker.close()


def test_what_cannot_be_read_by_ranges_is_fetched_whole(store: FaultyStore, tmp_path: Path) -> None:
    store.pipe_file("/bucket/c.svs", b"no TIFF at all")
    stored = StoredSlide("faulty://bucket/c.svs")
    with (
        pytest.raises(SlideOpenError, match="cannot be read by ranges"),
        by_ranges(stored, SlideFingerprint("", ""), tmp_path, None),
    ):
        pass
    worker = worker_of(tmp_path, ranges=True)
    ended = worker.do(SlideTask("c", "faulty://bucket/c.svs"), "1")
    assert ended.kind == "SlideOpenError" and "not a slide of any known format" in ended.message
    worker.close()


def test_the_next_slide_is_prepared_while_one_is_done(tmp_path: Path) -> None:
    slides = [ArchiveSlide(f"s{one}", f"s3://b/s{one}.svs", 10 + one) for one in range(8)]
    deaths: list[int] = []

    def do(worker: int, task):
        if task.name == "s6" and len(deaths) < MAX_DEATHS - 1:
            deaths.append(worker)
            return "killed"
        return DONE

    pool = ScriptedPool(do, 2, out=tmp_path)
    assert run(tmp_path, pool, slides).slides == {"done": 8}
    assert len(pool.prepared) >= 3
    dead = deaths[0]
    for worker, name in pool.prepared:
        assert pool.given_to[name] == worker or worker == dead
    assert sorted(set(pool.given)) == [slide.slide_id for slide in slides]
