"""The cache on disk: whole entries or none, within a size, and never a reason to fail."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathgene_rt.engines.cache import keys as cache_keys
from pathgene_rt.engines.cache.keys import DecisionKey, EngineKey
from pathgene_rt.engines.cache.store import EngineCache, open_cache
from pathgene_rt.errors import UsageError
from pathgene_rt.options import EngineOptions, parse_bytes
from tests.support.kept_engines import CALIBRATION, DECISION, KEY, TIMINGS, put_often


@pytest.fixture
def cache(tmp_path) -> EngineCache:
    return EngineCache(tmp_path / "new" / "cache", bundle="lung 1.0")


def numbered(number: int) -> EngineKey:
    return replace(KEY, onnx_sha256=f"{number:064}")


def files(cache: EngineCache, suffix: str) -> list[Path]:
    return sorted(cache.root.rglob(f"*{suffix}"))


def test_what_is_put_is_got(cache):
    assert cache.get(KEY) is None
    cache.put(KEY, b"engine")
    assert cache.get(KEY) == b"engine"
    assert EngineCache(cache.root).get(KEY) == b"engine"
    cache.put(KEY, b"another")
    assert cache.get(KEY) == b"another"
    assert cache.size_bytes() == sum(file.stat().st_size for file in files(cache, ".*")) > 500
    cache.drop(KEY)
    assert cache.get(KEY) is None
    assert cache.entries() == ()
    cache.drop(KEY)
    assert cache.warnings == ()


def test_every_part_of_a_key_counts(cache, monkeypatch):
    cache.put(KEY, b"engine")
    for field in fields(EngineKey):
        old = getattr(KEY, field.name)
        new = {int: 99, tuple: (("streams", "1"),)}.get(type(old), "other")
        assert cache.get(replace(KEY, **{field.name: new})) is None, field.name
    monkeypatch.setattr(cache_keys, "SCHEMA", cache_keys.SCHEMA + 1)
    assert cache.get(KEY) is None


def test_an_entry_says_in_words_what_it_is_of(cache):
    cache.put(KEY, b"engine", graph="encoder")
    (record,) = files(cache, ".json")
    document = json.loads(record.read_text())
    assert document["key"]["device"] == "NVIDIA RTX A2000"
    assert document["key"]["compute_capability"] == "8.6"
    assert document["key"]["driver"] == "CUDA 13.1"
    assert document["key"]["profiles"] == ["tiles 1..32..64"]
    assert (document["bundle"], document["graph"]) == ("lung 1.0", "encoder")
    assert document["size"] == 6


def _record(**changed: object):
    def damage(data: Path, record: Path) -> None:
        document = json.loads(record.read_text())
        for name, value in changed.items():
            (document if name in document else document["key"])[name] = value
        record.write_text(json.dumps(document))

    return damage


def _add_to_record(data: Path, record: Path) -> None:
    record.write_text(json.dumps({**json.loads(record.read_text()), "path": "/etc/passwd"}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, record: data.write_bytes(b"enginE"),
        lambda data, record: data.write_bytes(b"engine and more"),
        lambda data, record: data.write_bytes(b"eng"),
        lambda data, record: data.write_bytes(b""),
        lambda data, record: data.unlink(),
        lambda data, record: record.unlink(),
        lambda data, record: record.write_bytes(b""),
        lambda data, record: record.write_bytes(b"{"),
        lambda data, record: record.write_bytes(b"[]"),
        lambda data, record: record.write_bytes(b"{}"),
        lambda data, record: record.write_bytes(b"null"),
        lambda data, record: record.write_bytes(b"\xff\xfe"),
        lambda data, record: record.write_bytes(b"[" * 60_000),
        lambda data, record: record.write_bytes(record.read_bytes() + b" " * 100_000),
        lambda data, record: record.write_bytes(record.read_bytes()[:-20]),
        _record(size=-1),
        _record(size=2**70),
        _record(size="6"),
        _record(size=6.0),
        _record(sha256=None),
        _record(schema=cache_keys.SCHEMA + 1),
        _record(made="yesterday"),
        _record(precision="float32"),
        _record(profiles="tiles 1..32..64"),
        _record(sm_count=10**400),
        _record(content="../../engine"),
        _add_to_record,
    ],
)
def test_a_damaged_entry_is_absent_and_can_be_replaced(cache, damage):
    cache.put(KEY, b"engine")
    (data,), (record,) = files(cache, ".bin"), files(cache, ".json")
    damage(data, record)
    assert cache.get(KEY) is None
    assert len(cache.entries()) == 1
    assert cache.built(KEY, lambda: b"engine again") == b"engine again"
    assert cache.get(KEY) == b"engine again"
    assert cache.warnings == ()


@pytest.fixture(scope="module")
def one_entry(tmp_path_factory) -> tuple[EngineCache, bytes]:
    cache = EngineCache(tmp_path_factory.mktemp("cache"))
    cache.put(KEY, b"engine")
    return cache, files(cache, ".json")[0].read_bytes()


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_byte_of_a_record_makes_other_data_load(one_entry, place, byte):
    cache, raw = one_entry
    changed = bytearray(raw)
    changed[place % len(raw)] = byte
    files(cache, ".json")[0].write_bytes(changed)
    assert cache.get(KEY) in (None, b"engine")
    (entry,) = cache.entries()
    assert entry.record is not None or entry.damage
    assert cache.warnings == ()


def test_an_engine_of_another_key_is_not_loaded(cache):
    cache.put(KEY, b"engine")
    ours = {file.suffix: file for file in files(cache, ".*")}
    cache.put(replace(KEY, version="10.3.0"), b"foreign")
    for file in files(cache, ".*"):
        if file not in ours.values():
            file.replace(ours[file.suffix])
    assert cache.get(KEY) is None
    assert "another" in cache.entries()[0].damage


def test_what_was_built_is_not_built_again(cache):
    made = []

    def make() -> bytes:
        made.append("engine")
        return b"engine"

    assert cache.built(KEY, make) == cache.built(KEY, make) == b"engine"
    assert len(made) == 1
    cache.drop(KEY)  # the library refuses to load it
    assert cache.built(KEY, make) == b"engine"
    assert len(made) == 2


def test_a_build_that_fails_leaves_nothing_and_the_next_may_try(cache):
    def fail() -> bytes:
        raise ValueError("no such operator")

    with pytest.raises(ValueError, match="no such operator"):
        cache.built(KEY, fail)
    assert cache.entries() == ()
    assert cache.built(KEY, lambda: b"engine") == b"engine"
    assert cache.warnings == ()


def test_a_folder_that_cannot_be_used_is_one_warning(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file" / "cache")
    cache.put(KEY, b"engine")
    assert cache.get(KEY) is None
    assert cache.built(KEY, lambda: b"engine") == b"engine"
    assert cache.folder(TIMINGS) is None
    cache.drop(KEY)
    cache.decide(DECISION, {"precision": "float32"})
    assert cache.decision(DECISION) is None
    assert cache.entries() == cache.prune(0) == ()
    assert cache.size_bytes() == 0
    assert cache.problem()
    assert len(cache.warnings) == 1
    assert str(tmp_path / "file" / "cache") in cache.warnings[0]
    assert "\n" not in cache.warnings[0]


@pytest.mark.parametrize("write", [1, 2])
def test_a_full_disk_leaves_a_whole_entry_or_none(cache, monkeypatch, write):
    cache.put(KEY, b"engine")
    written = []

    def full(*_: object) -> None:
        written.append(1)
        if len(written) >= write:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathgene_rt.files.os.fsync", full)
    cache.put(KEY, b"another")
    monkeypatch.undo()
    assert cache.get(KEY) == (b"engine" if write == 1 else None)
    assert not files(cache, ".part")
    assert len(files(cache, ".bin")) == (1 if write == 1 else 0)
    assert len(cache.warnings) == 1
    assert "No space left" in cache.warnings[0]


def test_decisions_are_kept_by_bundle_machine_and_versions(cache):
    assert cache.decision(DECISION) is None
    cache.decide(DECISION, {"precision": "bfloat16"})
    assert EngineCache(cache.root).decision(DECISION) == {"precision": "bfloat16"}
    for field in fields(DecisionKey):
        assert cache.decision(replace(DECISION, **{field.name: "other"})) is None
    (record,) = files(cache, ".json")
    record.write_text('{"decision": "bfloat16"}')
    assert cache.decision(DECISION) is None
    record.write_text("[" * 100_000)
    assert cache.decision(DECISION) is None


def age(cache: EngineCache, key: EngineKey, hours: float) -> None:
    """Make ``key``'s entry look as if it was last used ``hours`` ago."""
    then = cache.entries()[0].used.timestamp() - hours * 3600
    name = cache_keys.digest(key)
    for file in files(cache, ".*"):
        if file.name.startswith(name):
            os.utime(file, (then, then))


def kept(cache: EngineCache) -> list[EngineKey]:
    return [entry.record.key for entry in cache.entries() if entry.record is not None]


def test_what_was_used_longest_ago_goes_first(cache):
    for number in range(4):
        cache.put(numbered(number), b"x" * 100_000)
        age(cache, numbered(number), 9 - number)
    cache.get(numbered(0))
    assert kept(cache) == [numbered(n) for n in (0, 3, 2, 1)]
    removed = cache.prune(250_000)
    assert [entry.record.key for entry in removed] == [numbered(1), numbered(2)]
    assert kept(cache) == [numbered(0), numbered(3)]
    assert cache.size_bytes() <= 250_000
    assert cache.prune(250_000) == ()


def test_putting_keeps_the_limit_but_never_removes_what_was_put(tmp_path):
    cache = EngineCache(tmp_path, limit_bytes=250_000)
    for number in range(5):
        cache.put(numbered(number), b"x" * 100_000)
        age(cache, numbered(number), 9 - number)
        assert cache.size_bytes() <= 250_000
    assert kept(cache) == [numbered(4), numbered(3)]
    cache.put(KEY, b"x" * 400_000)
    assert kept(cache) == [KEY]
    assert cache.warnings == ()


def test_calibrations_go_last_and_decisions_stay(cache):
    cache.decide(DECISION, {"precision": "int8"})
    cache.put(CALIBRATION, b"x" * 100_000)
    age(cache, CALIBRATION, 1000)
    cache.put(KEY, b"x" * 100_000)
    cache.prune(150_000)
    assert kept(cache) == [CALIBRATION]
    cache.prune(0)
    assert kept(cache) == []
    assert cache.decision(DECISION) == {"precision": "int8"}


def test_what_a_killed_process_left_is_counted_and_removed(cache):
    cache.put(KEY, b"engine")
    name = cache_keys.digest(replace(KEY, version="10"))
    left = cache.root / "engines" / f".{name}.bin.0badcafe.part"
    left.write_bytes(b"x" * 1000)
    assert cache.size_bytes() > 1000
    assert [entry.damage for entry in cache.entries()] == ["unfinished", ""]
    assert len(cache.prune(0)) == 2
    assert not left.exists()
    assert files(cache, ".*") == []


def test_a_folder_for_a_library_is_kept_under_its_key(tmp_path):
    cache = EngineCache(tmp_path / "cache")
    folder = cache.folder(TIMINGS, graph="encoder")
    assert folder is not None
    (folder / "timing.cache").write_bytes(b"x" * 1000)
    assert cache.folder(TIMINGS) == folder
    assert EngineCache(cache.root).folder(replace(TIMINGS, driver="CUDA 12.8")) != folder
    assert TIMINGS in kept(cache)
    assert max(entry.size_bytes for entry in cache.entries()) > 1000
    removed = cache.prune(0)
    assert [entry.record.key.driver for entry in removed] == ["CUDA 12.8"]  # nobody has it open
    assert folder.is_dir()
    del cache
    reopened = EngineCache(folder.parents[1])
    assert len(reopened.prune(0)) == 1
    assert not folder.exists()
    assert reopened.warnings == ()


def test_sizes_as_people_write_them(monkeypatch, tmp_path):
    assert parse_bytes("2GB") == parse_bytes("2 gb") == parse_bytes("2000M") == 2_000_000_000
    assert parse_bytes("1.5 kB") == 1500
    assert parse_bytes("0") == 0
    for wrong in ("", "GB", "-1", "2 GiB", "1e9", "9" * 30, "nan"):
        with pytest.raises(UsageError):
            parse_bytes(wrong)
    monkeypatch.setenv("PATHGENE_RT_CACHE_LIMIT", "3 MB")
    cache = open_cache(EngineOptions(cache_dir=tmp_path))
    assert cache is not None and cache.limit_bytes == 3_000_000
    monkeypatch.setenv("PATHGENE_RT_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match=r"PATHGENE_RT_CACHE_LIMIT.*'much'"):
        EngineOptions()
    assert open_cache(EngineOptions(cache_dir=None, cache_limit_bytes=0)) is None


def test_a_reader_beside_two_writers_sees_whole_entries_or_none(cache):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=put_often, args=(cache.root, byte)) for byte in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        data = cache.get(KEY)
        time.sleep(0.001)
        seen.add(None if data is None else (len(data), *set(data)))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {None, (200_000, 1), (200_000, 2)}
    assert cache.get(KEY) is not None
