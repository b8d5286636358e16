"""Keys of engines, and what other processes do with a cache: light to import, they are spawned."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from pathgene_rt.engines.cache.keys import DecisionKey, EngineKey, gpu_words
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.driver import GpuInfo

GPU = GpuInfo(0, "NVIDIA RTX A2000", (8, 6), 6 << 30, 26, (13, 1))
KEY = EngineKey(
    **gpu_words(GPU),
    backend="tensorrt",
    version="11.4.0.106",
    onnx_sha256="a" * 64,
    precision="float16",
    profiles=("tiles 1..32..64",),
    flags=(("strip_weights", "False"),),
    product="1",
)
CALIBRATION = EngineKey(
    content="calibration", backend="openvino", version="2026.4", device="a CPU", precision="int8"
)
TIMINGS = replace(KEY, content="timing cache", onnx_sha256="", precision="", profiles=())
DECISION = DecisionKey(
    product="1", bundle_sha256="b" * 64, machine="a machine", backend="openvino", version="2026.4"
)

NOBODY = 65534
PATIENCE_S = 60


def until_there(path: Path) -> None:
    """Wait for another process to get so far."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


def build(folder: Path, name: str) -> None:
    """Build KEY in ``folder``/cache; says "making NAME" and "waiting NAME"; made on "go NAME"."""

    def make() -> bytes:
        (folder / f"making {name}").touch()
        until_there(folder / f"go {name}")
        return b"engine" * 1000

    cache = EngineCache(folder / "cache")
    assert cache.built(KEY, make, (folder / f"waiting {name}").touch) == b"engine" * 1000
    assert cache.warnings == ()


def hold_folder(root: Path, opened: Path) -> None:
    cache = EngineCache(root)
    folder = cache.folder(TIMINGS)
    assert folder is not None
    (folder / "a library's").write_bytes(b"x")
    opened.touch()
    time.sleep(PATIENCE_S)


def prune_until(root: Path, stop: Path) -> None:
    cache = EngineCache(root)
    while not stop.exists():
        cache.prune(0)
    assert cache.warnings == ()


def put_often(root: Path, byte: int) -> None:
    cache = EngineCache(root)
    for _ in range(10):
        cache.put(KEY, bytes([byte]) * 200_000)
    assert cache.warnings == ()


def use_read_only(root: Path) -> None:
    import filelock  # noqa: F401 - before the right to read it goes

    if os.geteuid() == 0:
        os.setuid(NOBODY)  # root writes where it wants
    cache = EngineCache(root)
    assert cache.get(KEY) == b"engine"
    assert cache.built(KEY, lambda: b"never") == b"engine"
    assert cache.warnings == ()
    assert cache.built(replace(KEY, version="10"), lambda: b"own") == b"own"
    assert cache.folder(TIMINGS) is None
    cache.decide(DECISION, {})
    cache.drop(KEY)
    assert len(cache.entries()) == 1
    assert len(cache.warnings) == 1, cache.warnings
    assert "Permission denied" in cache.warnings[0]


def fill_disk(root: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    cache = EngineCache(root)
    assert cache.built(KEY, lambda: b"x" * 1_000_000) == b"x" * 1_000_000
    assert cache.get(KEY) is None
    assert cache.built(KEY, lambda: b"x" * 1_000_000) == b"x" * 1_000_000
    assert len(cache.warnings) == 1
    assert "cannot write" in cache.warnings[0] and "free space" in cache.warnings[0]
