"""Several processes and threads at one engine cache: one builds, none waits for the dead."""

from __future__ import annotations

import errno
import multiprocessing
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pathgene_rt.engines.cache import lock as cache_lock
from pathgene_rt.engines.cache.store import EngineCache
from tests.engines.test_engine_cache import files
from tests.support.kept_engines import (
    KEY,
    PATIENCE_S,
    TIMINGS,
    build,
    hold_folder,
    prune_until,
    until_there,
)

SPAWN = multiprocessing.get_context("spawn")


def start(target, *arguments: object) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    return process


def test_of_two_processes_one_builds_and_the_other_waits_and_loads(tmp_path):
    first = start(build, tmp_path, "first")
    until_there(tmp_path / "making first")
    second = start(build, tmp_path, "second")
    until_there(tmp_path / "waiting second")
    (tmp_path / "go first").touch()
    for process in (first, second):
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert not (tmp_path / "making second").exists()
    assert not (tmp_path / "waiting first").exists()


def test_a_builder_that_is_killed_holds_up_nobody(tmp_path):
    builder = start(build, tmp_path, "killed")
    until_there(tmp_path / "making killed")
    cache, waiting = EngineCache(tmp_path / "cache"), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cache.built, KEY, lambda: b"engine", waiting.set)
        assert waiting.wait(PATIENCE_S)
        builder.kill()
        assert other.result(PATIENCE_S) == b"engine"
    builder.join(PATIENCE_S)
    assert cache.get(KEY) == b"engine"
    assert cache.warnings == ()


def test_of_many_threads_one_builds(tmp_path):
    made = []

    def make() -> bytes:
        time.sleep(0.2)
        made.append(1)
        return b"engine"

    with ThreadPoolExecutor(8) as pool:
        builds = [pool.submit(EngineCache(tmp_path).built, KEY, make) for _ in range(8)]
        assert {build.result() for build in builds} == {b"engine"}
    assert len(made) == 1


def test_different_engines_are_built_at_once(tmp_path):
    cache, meet = EngineCache(tmp_path), threading.Barrier(2, timeout=PATIENCE_S)

    def make() -> bytes:
        meet.wait()
        return b"engine"

    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(cache.built, replace(KEY, version=v), make) for v in ("10", "11")]
        assert [build.result() for build in builds] == [b"engine", b"engine"]


def test_nobody_waits_for_ever_for_a_builder_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_lock, "LONGEST_WAIT_S", 0.2)
    cache, building, release = EngineCache(tmp_path), threading.Event(), threading.Event()

    def hang() -> bytes:
        building.set()
        release.wait(PATIENCE_S)
        return b"late"

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(EngineCache(tmp_path).built, KEY, hang)
        assert building.wait(PATIENCE_S)
        assert cache.built(KEY, lambda: b"engine") == b"engine"
        release.set()
        assert hanging.result() == b"late"
    assert len(cache.warnings) == 1
    assert "two processes may build" in cache.warnings[0]
    assert "another process has held" in cache.warnings[0]


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_still_keeps_engines(tmp_path, monkeypatch, code):
    def no_locks(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    cache = EngineCache(tmp_path)
    assert cache.built(KEY, lambda: b"engine") == b"engine"
    assert len(cache.warnings) == 1
    assert "two processes may build the same engine: cannot lock" in cache.warnings[0]
    assert EngineCache(tmp_path).built(KEY, lambda: b"never") == b"engine"
    other = EngineCache(tmp_path)
    folder = other.folder(TIMINGS)
    assert folder is not None and folder.is_dir()
    assert other.warnings == ()


def test_an_entry_that_is_being_made_is_not_removed(tmp_path):
    cache, other = EngineCache(tmp_path), EngineCache(tmp_path)
    cache.put(KEY, b"damaged")
    (data,) = files(cache, ".bin")
    data.write_bytes(b"dam")
    seen = []

    def make() -> bytes:
        seen.append((other.prune(0), [other.remove(entry) for entry in other.entries()]))
        return b"engine"

    assert cache.built(KEY, make) == b"engine"
    assert seen == [((), [False])]
    assert cache.get(KEY) == b"engine"
    assert [other.remove(entry) for entry in other.entries()] == [True]
    assert cache.get(KEY) is None
    assert not files(cache, ".*")


def test_the_folder_of_a_living_process_is_not_removed(tmp_path):
    process = start(hold_folder, tmp_path / "cache", tmp_path / "opened")
    until_there(tmp_path / "opened")
    cache = EngineCache(tmp_path / "cache")
    (held,) = files(cache, ".lock")
    assert cache.prune(0) == ()
    assert len(cache.entries()) == 1
    process.kill()
    process.join(PATIENCE_S)
    assert cache.folder(TIMINGS) is not None
    assert not held.exists()  # tidied up after the dead
    del cache
    assert len(EngineCache(tmp_path / "cache").prune(0)) == 1


def test_pruning_beside_a_reader_costs_it_no_more_than_a_build(tmp_path):
    root, stop = tmp_path / "cache", tmp_path / "stop"
    process = start(prune_until, root, stop)
    cache, built = EngineCache(root), []

    def make() -> bytes:
        built.append(1)
        return b"engine" * 10_000

    end = time.monotonic() + PATIENCE_S
    while len(built) < 5 and time.monotonic() < end:
        assert cache.built(KEY, make) == b"engine" * 10_000
    stop.touch()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    assert len(built) >= 5
    assert cache.warnings == ()
