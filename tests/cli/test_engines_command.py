"""``pathgene-rt engines``: what is kept is listed truly, and only what was named is removed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pathgene_rt.cli.main import app
from pathgene_rt.engines import kept_engines as kept_module
from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cache.keys import LATER_CARDS, LATER_VERSIONS, EngineKey
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.driver import GpuInfo
from pathgene_rt.engines.kept_engines import kept_engines
from pathgene_rt.errors import OutputError, UsageError
from tests.engines.test_engine_cache import age, files, kept
from tests.support.kept_engines import CALIBRATION, DECISION, GPU, KEY, TIMINGS

OURS = replace(KEY, product="")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> EngineCache:
    monkeypatch.setenv("PATHGENE_RT_CACHE", str(tmp_path / "cache"))
    return EngineCache(tmp_path / "cache", bundle="lung 1.0")


class Machine:
    """Backends and cards as a test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = Availability(True, "", KEY.version, (GPU.name,), ("float32", "float16"))
        self.gpus: tuple[GpuInfo, ...] = (GPU,)
        monkeypatch.setattr(
            kept_module, "load_backend", lambda _: type("B", (), {"probe": lambda _: self.found})()
        )
        monkeypatch.setattr(kept_module, "cuda_devices", lambda: self.gpus)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


def run(*arguments: object):
    return CliRunner().invoke(app, ["engines", *map(str, arguments)])


def why_unusable(cache: EngineCache, key: EngineKey) -> str:
    cache.put(key, b"engine")
    (found,) = (k for k in kept_engines(cache) if k.entry.record and k.entry.record.key == key)
    return found.unusable


def test_an_engine_of_this_machine_is_usable(cache, machine):
    assert why_unusable(cache, OURS) == ""
    assert why_unusable(cache, replace(OURS, version=LATER_VERSIONS)) == ""
    portable = replace(OURS, device=LATER_CARDS, compute_capability="", sm_count=0, driver="")
    assert why_unusable(cache, portable) == ""
    machine.gpus = (replace(GPU, compute_capability=(7, 5)),)
    assert why_unusable(cache, portable) == f"made for {LATER_CARDS}"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"system": "Windows AMD64"}, "made on Windows AMD64"),
        ({"product": "0.0.1"}, "made by pathgene-rt 0.0.1"),
        ({"backend": "abacus"}, "no engine of this version is called abacus"),
        ({"version": "10.3.0"}, "made with tensorrt 10.3.0, here is 11.4.0.106"),
        ({"device": "NVIDIA L4"}, "made for NVIDIA L4"),
        ({"compute_capability": "8.9"}, "made for NVIDIA RTX A2000"),
        ({"sm_count": 25}, "made for NVIDIA RTX A2000"),
        ({"driver": "CUDA 12.8"}, "made with driver CUDA 12.8, here is CUDA 13.1"),
        ({"compute_capability": "", "device": "a CPU"}, "made for a CPU"),
    ],
)
def test_what_another_machine_or_version_made_is_said(cache, machine, changed, why):
    assert why_unusable(cache, replace(OURS, **changed)) == why


def test_without_the_library_nothing_of_it_is_usable(cache, machine):
    machine.found = Availability(False, "not installed; pip install 'pathgene-rt[tensorrt]'")
    assert why_unusable(cache, OURS) == "tensorrt cannot run here, see pathgene-rt doctor"


def test_the_second_of_two_cards_counts(cache, machine):
    machine.gpus = (replace(GPU, name="NVIDIA L4"), replace(GPU, index=1))
    assert why_unusable(cache, OURS) == ""


def test_list_shows_people_and_machines_what_is_kept(cache, machine):
    cache.put(OURS, b"x" * 2_000_000, graph="ctranspath")
    cache.put(CALIBRATION, b"x" * 1000)
    folder = cache.folder(TIMINGS)
    assert folder is not None
    (folder / "timing.cache").write_bytes(b"x" * 500)
    document = json.loads(run("list", "--json").stdout)
    assert document["folder"] == str(cache.root)
    assert document["size_bytes"] == sum(e["size_bytes"] for e in document["engines"]) > 2_000_000
    assert [entry["content"] for entry in document["engines"]] == [
        "timing cache",
        "calibration",
        "engine",
    ]
    engine = document["engines"][-1]
    assert (engine["bundle"], engine["graph"]) == ("lung 1.0", "ctranspath")
    assert (engine["device"], engine["compute_capability"]) == ("NVIDIA RTX A2000", "8.6")
    assert engine["profiles"] == ["tiles 1..32..64"]
    assert engine["unusable"] is None

    shown = run("list")
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.split())
    for part in ("lung 1.0", "ctranspath", "2.0 MB", "float16", "calibration", "usable"):
        assert part in words
    assert "3 kept in" in words and "of at most 10.0 GB" in words
    assert run("list", "--quiet").stdout == ""


def test_list_of_nothing(cache):
    shown = run("list")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("0 kept in")
    assert json.loads(run("list", "--json").stdout)["engines"] == []
    assert not cache.root.exists()


def test_damage_is_listed_and_pruned(cache, machine):
    cache.put(OURS, b"engine")
    cache.put(replace(OURS, version="10"), b"engine")
    (record, _) = files(cache, ".json")
    record.write_text("{")
    listed = json.loads(run("list", "--json").stdout)["engines"]
    assert sum("damaged" in (entry["unusable"] or "") for entry in listed) == 1
    assert run("list").exit_code == 0
    pruned = run("prune", "--not-usable", "--json")
    gone = {entry["name"] for entry in json.loads(pruned.stdout)["removed"]}
    assert gone == {entry["name"] for entry in listed if entry["unusable"]}
    assert [entry.damage for entry in cache.entries()] in ([], [""])


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--all"], []),
        (["--not-usable"], ["engine", "calibration"]),
        (["--older-than", "10h"], ["engine"]),
        (["--older-than", "2d"], ["engine", "timing cache", "calibration"]),
        (["--to-size", "150kB"], ["calibration"]),
        (["--older-than", "60d", "--to-size", "250kB"], ["engine", "calibration"]),
    ],
)
def test_prune_removes_what_was_named_and_says_how_much(cache, machine, options, left):
    machine.found = replace(machine.found, devices=(GPU.name, CALIBRATION.device))
    calibration = replace(CALIBRATION, version=KEY.version)
    cache.decide(DECISION, {"precision": "int8"})
    for key, hours in ((calibration, 30), (replace(TIMINGS, driver="CUDA 12.8"), 20), (OURS, 0)):
        cache.put(key, b"x" * 100_000)
        age(cache, key, hours)
    before = cache.size_bytes()
    done = run("prune", *options, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [key.content for key in kept(cache)] == left
    assert len(document["removed"]) == 3 - len(left)
    assert document["freed_bytes"] == before - cache.size_bytes()
    assert cache.decision(DECISION) == {"precision": "int8"}


def test_prune_says_what_it_did(cache, machine):
    cache.put(OURS, b"x" * 1_000_000, graph="ctranspath")
    done = run("prune", "--all")
    assert done.stdout.splitlines()[0] == (
        "removed lung 1.0 ctranspath aaaaaaaa: tensorrt 11.4.0.106 float16, 1.0 MB"
    )
    assert done.stdout.splitlines()[-1] == "1 removed, 1.0 MB freed, 0 bytes kept"


def test_what_is_in_use_is_left_and_said(cache, machine):
    assert cache.folder(TIMINGS) is not None
    done = run("prune", "--all")
    assert done.exit_code == 0
    assert "1 in use and not removed" in done.stdout
    assert len(cache.entries()) == 1


@pytest.mark.parametrize(
    "options",
    [[], ["--older-than", "3"], ["--older-than", "-3d"], ["--to-size", "big"], ["--to-size", "-1"]],
)
def test_prune_that_names_nothing_removes_nothing(cache, machine, options):
    cache.put(OURS, b"engine")
    failed = run("prune", *options)
    assert isinstance(failed.exception, UsageError) or failed.exit_code == 2
    assert len(cache.entries()) == 1


def test_a_folder_that_cannot_be_pruned_is_an_error(cache, machine, monkeypatch):
    cache.put(OURS, b"engine")

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    failed = run("prune", "--all")
    assert isinstance(failed.exception, OutputError)
    assert "Permission denied" in str(failed.exception)
    assert "0 removed" in failed.stdout
