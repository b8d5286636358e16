"""The cache on disk: whole entries or none, and never a reason to fail."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pathgene_rt.engines import engine_cache
from pathgene_rt.engines.engine_cache import DecisionKey, EngineCache, EngineKey

KEY = EngineKey(
    backend="openvino",
    version="2026.4",
    onnx_sha256="a" * 64,
    precision="bfloat16",
    device="a CPU",
    threads=2,
    batch=16,
    flags=(("streams", "2"),),
)
DECISION = DecisionKey(
    product="1", bundle_sha256="b" * 64, machine="a machine", backend="openvino", version="2026.4"
)


@pytest.fixture
def cache(tmp_path) -> EngineCache:
    return EngineCache(tmp_path / "new" / "cache")


def files(cache: EngineCache, suffix: str) -> list[Path]:
    return sorted(cache.folder.rglob(f"*{suffix}"))


def test_what_is_put_is_got(cache):
    assert cache.get(KEY) is None
    cache.put(KEY, b"engine")
    assert cache.get(KEY) == b"engine"
    assert EngineCache(cache.folder).get(KEY) == b"engine"
    cache.put(KEY, b"another")
    assert cache.get(KEY) == b"another"
    assert cache.size_bytes() == sum(file.stat().st_size for file in files(cache, ".*"))
    assert cache.warnings == ()


def test_every_part_of_a_key_counts(cache, monkeypatch):
    cache.put(KEY, b"engine")
    for field in fields(EngineKey):
        old = getattr(KEY, field.name)
        new = {int: 99, tuple: (("streams", "1"),)}.get(type(old), "other")
        assert cache.get(replace(KEY, **{field.name: new})) is None, field.name
    monkeypatch.setattr(engine_cache, "SCHEMA", engine_cache.SCHEMA + 1)
    assert cache.get(KEY) is None


def test_an_entry_says_in_words_what_it_is_of(cache):
    cache.put(KEY, b"engine")
    (record,) = files(cache, ".json")
    document = json.loads(record.read_text())
    assert document["key"]["precision"] == "bfloat16"
    assert document["size"] == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, record: data.write_bytes(b"enginE"),
        lambda data, record: data.write_bytes(b"engine and more"),
        lambda data, record: data.write_bytes(b""),
        lambda data, record: data.unlink(),
        lambda data, record: record.unlink(),
        lambda data, record: record.write_bytes(b""),
        lambda data, record: record.write_bytes(b"{"),
        lambda data, record: record.write_bytes(b"[]"),
        lambda data, record: record.write_bytes(b"{}"),
        lambda data, record: record.write_bytes(b"\xff\xfe"),
        lambda data, record: record.write_bytes(b"[" * 100_000),
    ],
)
def test_a_damaged_entry_is_absent_and_can_be_replaced(cache, damage):
    cache.put(KEY, b"engine")
    (data,), (record,) = files(cache, ".bin"), files(cache, ".json")
    damage(data, record)
    assert cache.get(KEY) is None
    cache.put(KEY, b"engine")
    assert cache.get(KEY) == b"engine"
    assert cache.warnings == ()


def test_a_folder_that_cannot_be_used_is_one_warning(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file" / "cache")
    cache.put(KEY, b"engine")
    assert cache.get(KEY) is None
    cache.decide(DECISION, {"precision": "float32"})
    assert cache.decision(DECISION) is None
    assert cache.size_bytes() == 0
    assert len(cache.warnings) == 1
    assert str(tmp_path / "file" / "cache") in cache.warnings[0]
    assert "\n" not in cache.warnings[0]


def test_a_full_disk_leaves_the_old_entry_and_no_rest(cache, monkeypatch):
    cache.put(KEY, b"engine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathgene_rt.files.os.fsync", full)
    cache.put(KEY, b"another")
    monkeypatch.undo()
    assert cache.get(KEY) == b"engine"
    assert len(files(cache, ".*")) == 2
    assert "No space left" in cache.warnings[0]


def test_decisions_are_kept_by_bundle_machine_and_versions(cache):
    assert cache.decision(DECISION) is None
    cache.decide(DECISION, {"precision": "bfloat16"})
    assert EngineCache(cache.folder).decision(DECISION) == {"precision": "bfloat16"}
    for field in fields(DecisionKey):
        assert cache.decision(replace(DECISION, **{field.name: "other"})) is None
    (record,) = files(cache, ".json")
    record.write_text('{"decision": "bfloat16"}')
    assert cache.decision(DECISION) is None


def _write(folder: Path, byte: int) -> None:
    cache = EngineCache(folder)
    for _ in range(20):
        cache.put(KEY, bytes([byte]) * 200_000)


def test_a_reader_beside_two_writers_sees_whole_entries_or_none(cache):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(cache.folder, byte)) for byte in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        data = cache.get(KEY)
        seen.add(None if data is None else (len(data), *set(data)))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {None, (200_000, 1), (200_000, 2)}
    assert cache.get(KEY) is not None
