"""Engines are code: what another user can have written is not loaded, and others get no say."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from pathgene_rt.engines.cache.store import EngineCache
from tests.engines.test_engine_cache import files
from tests.support.kept_engines import KEY, NOBODY, TIMINGS, fill_disk, use_read_only

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX owners and modes")

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def cache(tmp_path) -> EngineCache:
    cache = EngineCache(tmp_path / "cache")
    cache.put(KEY, b"engine")
    return cache


def engines(cache: EngineCache) -> Path:
    return cache.root / "engines"


def test_nobody_else_may_write_whatever_the_umask_says(tmp_path):
    before = os.umask(0)
    try:
        cache = EngineCache(tmp_path / "cache")
        cache.put(KEY, b"engine")
        folder = cache.folder(TIMINGS)
    finally:
        os.umask(before)
    assert folder is not None
    for path in (engines(cache), folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (*files(cache, ".bin"), *files(cache, ".json")):
        assert not path.stat().st_mode & 0o022
    assert cache.get(KEY) == b"engine"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_refused(cache, mode):
    engines(cache).chmod(mode)
    assert cache.get(KEY) is None
    cache.put(KEY, b"another")
    assert cache.built(KEY, lambda: b"own") == b"own"
    assert cache.folder(TIMINGS) is None
    assert len(cache.warnings) == 1
    assert f"other users can write to {engines(cache)}," in cache.warnings[0]
    assert EngineCache(cache.root).entries() == ()
    assert "PATHGENE_RT_CACHE" in cache.warnings[0]
    assert "other users" in cache.problem()
    engines(cache).chmod(0o700)
    assert cache.get(KEY) == b"engine"


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_file_that_others_can_write_is_refused_and_replaced(cache, suffix):
    (file,) = files(cache, suffix)
    file.chmod(0o666)
    assert cache.get(KEY) is None
    assert "other users can write" in cache.warnings[0]
    again = EngineCache(cache.root)
    assert again.built(KEY, lambda: b"own") == b"own"
    assert again.get(KEY) == b"own"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives away")
@pytest.mark.parametrize("what", ["folder", "data", "record"])
def test_what_belongs_to_another_user_is_refused(cache, what):
    paths = {"folder": [engines(cache)], "data": files(cache, ".bin"), "record": files(cache, "n")}
    os.chown(paths[what][0], NOBODY, NOBODY)
    assert cache.get(KEY) is None
    assert "belongs to another user" in cache.warnings[0]


def test_a_folder_that_can_only_be_read_is_of_use():
    """Also one that the administrator made for everyone."""
    base = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        base.chmod(0o755)
        cache = EngineCache(base / "cache")
        cache.put(KEY, b"engine")
        for path in (engines(cache), cache.root):
            path.chmod(0o555)
        process = SPAWN.Process(target=use_read_only, args=(cache.root,))
        process.start()
        process.join()
        assert process.exitcode == 0
    finally:
        for path in (base / "cache", base / "cache" / "engines"):
            path.chmod(0o700)
        shutil.rmtree(base)


def test_an_engine_that_the_disk_cannot_take_runs_from_memory(tmp_path):
    process = SPAWN.Process(target=fill_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert EngineCache(tmp_path).entries() == ()
    assert all(file.suffix == ".lock" for file in (tmp_path / "engines").iterdir())
