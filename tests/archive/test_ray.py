"""Ray itself: two nodes on this machine, workers that are killed, and the command line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pathgene_rt.archive.pool import Event, Opened
from pathgene_rt.archive.ray_pool import RayPool
from pathgene_rt.archive.source import find_archive
from pathgene_rt.archive.start import Listeners, bundle_sha256, run_archive, sole_run
from pathgene_rt.archive.status import read_events, read_status
from pathgene_rt.archive.tasks import Ended, Task, WorkerSpec
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.errors import EngineUnavailableError, UsageError
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

QUIET = {"heatmaps": False, "geojson": False, "html": False}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny.tiny_bundle(folder / "tiny.pgrt")
    (folder / "slides").mkdir()
    for number in range(8):
        write_slide(folder / "slides" / f"s{number}.svs", (768, 768), seed=number)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with one processor each."""
    pytest.importorskip("ray", reason="needs the extra ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


class Watched(RayPool):
    """Tells which processes its workers are."""

    pids: list[int]

    def wait(self, timeout_s: float) -> Sequence[Event]:
        events = super().wait(timeout_s)
        self.pids = getattr(self, "pids", [])
        self.pids += [event.hello.pid for event in events if isinstance(event, Opened)]
        return events


@pytest.mark.world
def test_two_nodes_and_workers_that_are_killed(cluster: str, inputs: Path, tmp_path: Path) -> None:
    pools: list[Watched] = []
    killed: list[int] = []

    def open_pool(spec: WorkerSpec) -> Watched:
        pools.append(Watched(spec, address=cluster, threads=1))
        return pools[0]

    def ended(task: Task, what: Ended) -> None:
        alive = [pid for pid in pools[0].pids if pid not in killed]
        if len(killed) < 2 and alive:  # once while it works, once while it may be idle
            killed.append(alive[-1])
            os.kill(killed[-1], signal.SIGKILL)

    with sole_run(tmp_path / "out") as place:
        slides = find_archive(str(inputs / "slides"), place.layout.out, print)
        spec = WorkerSpec(
            kind="predict",
            bundle=str(inputs / "tiny.pgrt"),
            bundle_sha256=bundle_sha256(inputs / "tiny.pgrt"),
            out=str(place.layout.out),
            predict=QUIET,
            engine={"backend": "onnxruntime"},
        )
        result = run_archive(place, slides, spec, open_pool, Listeners(ended, print))
    assert result.failures == {} and len(killed) == 2
    assert result.slides == {"done": 8}
    found = sorted(path.name for path in (tmp_path / "out").glob("*/report.json"))
    assert len(found) == 8
    status = read_status(tmp_path / "out")
    assert status.slides == {"done": 8} and sum(node.died for node in status.nodes) == 2
    assert sum("died" in what for _, what in read_events(tmp_path / "out")) == 2
    assert not any((tmp_path / "out" / ".archive" / "attempts").iterdir())


@pytest.mark.slow  # Ray starts twice
def test_ctrl_c_and_the_same_command_again(inputs: Path, tmp_path: Path) -> None:
    """By the command line, with a Ray of its own, which ends with it."""
    plain = ("--no-html", "--no-heatmaps", "--no-geojson", "--engine", "onnxruntime")
    command = [sys.executable, "-m", "pathgene_rt.cli", "archive", "predict"]
    command += [str(inputs / "slides"), "--bundle", str(inputs / "tiny.pgrt"), *plain]
    command += ["--out", str(tmp_path / "out"), "--workers", "1", "--max-rate", "1MB"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while begun.poll() is None and not list((tmp_path / "out").glob("*/report.json")):
        time.sleep(0.05)
    other = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert other.returncode == 2 and "another archive run writes to" in other.stderr
    begun.send_signal(signal.SIGINT)
    told = begun.communicate(timeout=60)[1]
    assert begun.returncode == 130, told
    command[-1] = "1GB"
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert "skipped" in again.stdout
    assert len(list((tmp_path / "out").glob("*/report.json"))) == 8


_TWO_GPUS = """
import os, sys
from pathgene_rt.archive.ray_pool import RayPool
from pathgene_rt.archive.tasks import WorkerSpec
pool = RayPool(WorkerSpec("predict", sys.argv[1], "", sys.argv[2]), devices=("3", "5"), threads=1)
actors = [pool._actors[pool.start()] for _ in range(pool.wanted())]
asked = [one.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) for one in actors]
print(pool.share.gpus, sorted(pool._ray.get(asked)))
pool.close()
"""


@pytest.mark.slow
def test_each_worker_has_a_gpu_of_its_own(inputs: Path, tmp_path: Path) -> None:
    """Ray is told that there are two; what it gives to workers needs no card."""
    pytest.importorskip("ray", reason="needs the extra ray")
    command = [sys.executable, "-c", _TWO_GPUS, str(inputs / "tiny.pgrt"), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    both = ["3", "5"][: min(2, usable_cpus())]
    assert told.stdout.strip() == f"1 {both}", told.stderr


def test_a_ray_that_would_be_open_to_others_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token counts only if it is there before Ray is imported."""
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(EngineUnavailableError, match="set RAY_AUTH_MODE=token"):
        RayPool(WorkerSpec("predict", "", "", str(tmp_path)))


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spec = WorkerSpec("predict", "", "", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"no Ray cluster answers at .*ray start"):
        RayPool(spec, address=f"127.0.0.1:{port}")
    for wrong in ("ray://head:10001", "head", "head:", ":6379", "head:x"):
        with pytest.raises(UsageError, match="is no address of a Ray cluster"):
            RayPool(spec, address=wrong)
