"""How many threads "all cores" are where this process may not use the whole machine."""

from __future__ import annotations

import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines import machine
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.options import EngineOptions
from pathgene_rt.streaming.tile_reader import default_readers
from tests.support import tiny_models as tiny

V1 = "4:memory:/job\n3:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/x"


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/", {}, inf),
        ("0::/", {"cpu.max": "max 100000"}, inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 100000"}, 1),
        # A container of version 1 sees its own group on top, though the host's name is told.
        ("2:cpu:/docker/0a1b", {"cpu/cpu.cfs_quota_us": "50000"}, 0.5),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, inf),
        (V1, {"cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "300000"}, 3),
        (V1, {"memory/job/cpu.cfs_quota_us": "100000"}, inf),
        (f"{V1}\n0::/u", {"unified/u/cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "nonsense"}, inf),
    ],
)
def test_control_groups_of_both_versions(
    tmp_path: Path, groups: str, files: dict[str, str], cpus: float
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        if file.name == "cpu.cfs_quota_us":
            file.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert machine._cgroup_cpus(tmp_path) == cpus


def test_no_limit_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert machine._cgroup_cpus(tmp_path) == inf


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs an affinity of two processors",
)
def test_affinity_bounds_the_threads_of_every_engine(tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    script = (
        "import os, sys\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from tests.engines.test_usable_cpus import threads\n"
        "print(*threads(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "2"]


def threads(path: str) -> tuple[int, ...]:
    """Of OpenVINO, of ONNX Runtime, and of readers."""
    found = []
    with Bundle.open(Path(path)) as bundle:
        for name in ("openvino", "onnxruntime"):
            options = EngineOptions(backend=name, precision="float32", cache_dir=None)
            with EngineFactory(bundle, options).encoder() as engine:
                found.append(engine.info.threads)
    return (*found, default_readers())


def test_a_quota_bounds_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cgroup_cpus", lambda root: 0.5)
    assert machine.usable_cpus() == 1
    assert threads(str(tiny.tiny_bundle(tmp_path / "tiny.pgrt"))) == (1, 1, 2)
