"""Two `build`s of one bundle at once into one cache, with the compiler of TensorRT for RTX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX
from tests.support import tiny_models as tiny
from tests.support.paths import ROOT


@pytest.mark.world
@pytest.mark.skipif(not TENSORRT_RTX.installed(), reason="TensorRT for RTX is not installed")
def test_each_engine_is_built_by_one_of_them(tmp_path: Path) -> None:
    bundle, built = tiny.tiny_bundle(tmp_path / "tiny.pgrt"), tmp_path / "built"
    command = [sys.executable, "-m", "tests.support.rtx_build", str(built), "build", str(bundle)]
    both = [
        subprocess.Popen(
            [*command, "--engine", "tensorrt-rtx", "--precision", "float32", "--json"],
            env={**os.environ, "PATHGENE_RT_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0
        report = json.loads(said)
        (candidate,) = report["candidates"]
        assert candidate["refused"] is None and report["warnings"] == []
    names = built.read_text().split()
    assert sorted(names) == sorted(set(names)) and "tiny" in names
    kept = EngineCache(tmp_path / "cache").entries()
    assert {entry.record.graph for entry in kept if entry.record} == {*names}
    assert all(entry.damage == "" for entry in kept) and len(kept) == len(names)
    whole = {f"{entry.name}{suffix}" for entry in kept for suffix in (".bin", ".json")}
    there = {path.name for path in (tmp_path / "cache" / "engines").iterdir()}
    assert there - whole <= {f"{entry.name}.lock" for entry in kept}
