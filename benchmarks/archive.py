"""An archive whose workers and driver are killed at random, against a bare loop:

    python -m benchmarks.archive --slides 10000 --kills 200 --work /tmp/drill

Tiny slides through a tiny bundle by `archive predict` on a Ray of 8 workers. Each kill ends, by
SIGKILL, a worker (19 of 20) or the driver, which is started again until all is done. Afterwards
every slide must have one result, which was put there once and never replaced, equal to what a quiet
loop in this process makes of the same pixels, and nothing may be left of attempts. Last, what a
slide costs beyond that loop. ``--work DIR`` is kept: the same command goes on where a drill was
stopped, and DIR/timeline.txt tells all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.pool import Event, Finished, Opened
from pathgene_rt.archive.queue import TaskQueue, in_order
from pathgene_rt.archive.results import FolderResults
from pathgene_rt.archive.run import ArchiveRun
from pathgene_rt.archive.source import ArchiveSlide, cases_of
from pathgene_rt.archive.state import ArchiveState
from pathgene_rt.archive.status import read_events, read_status
from pathgene_rt.archive.tasks import Ended, Hello, SlideTask, Task
from tests.support import tiny_models as tiny

WORKERS = 8
DISTINCT = 20
"""Slides of which all others are hard links."""

_ACTOR = "ray::WatchedWorker"
_PLAIN = ("--no-html", "--no-heatmaps", "--no-geojson", "--engine", "onnxruntime")
_DRIVER_SHARE = 0.05
"""Of kills: each costs all workers, who must open the bundle anew."""

_TELL_S = 60.0
_GONE_S = 20.0
"""For workers whose driver is gone to end."""


@dataclass
class Tally:
    """Kills by victim, how often the driver was started, and seconds so far; of each result that
    was seen its inode, and those that were replaced later."""

    workers: int = 0
    drivers: int = 0
    starts: int = 0
    seconds: float = 0.0
    inodes: dict[str, int] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.workers + self.drivers

    def see(self, out: Path) -> int:
        """Look at the results in ``out``; how many there are."""
        with os.scandir(out) as items:
            found = {one.name: one.inode() for one in items if one.name[0] == "s"}
        for name, inode in found.items():
            if self.inodes.setdefault(name, inode) != inode:
                self.replaced.append(name)
        return len(found)


class Drill:
    """What a drill keeps in its folder, so that it can be stopped and gone on with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = folder / "tally.json"
        self.tally = Tally(**json.loads(self._kept.read_text())) if self._kept.exists() else Tally()
        self._began = time.monotonic() - self.tally.seconds

    def tell(self, what: str) -> None:
        """A line of the timeline."""
        self.tally.seconds = time.monotonic() - self._began
        line = f"{self.tally.seconds:7.0f} s  {what}"
        print(line, flush=True)
        with (self.folder / "timeline.txt").open("a") as file:
            file.write(line + "\n")
        self._kept.write_text(json.dumps(asdict(self.tally)))


def write_archive(folder: Path, slides: int) -> None:
    """``slides`` files in ``folder``/slides, and the bundle."""
    tiny.tiny_bundle(folder / "tiny.pgrt")
    (folder / "distinct").mkdir()
    (folder / "slides").mkdir()
    for number in range(DISTINCT):
        noise = np.random.default_rng(number).integers(-15, 15, (1, tiny.TILE_PX, tiny.TILE_PX, 1))
        pixels = (np.array([205, 130, 175]) + noise).astype(np.uint8)
        write_golden_slide(folder / "distinct" / f"{number}.svs", pixels, 0.5)
    for number in range(slides):
        source = folder / "distinct" / f"{number % DISTINCT}.svs"
        (folder / "slides" / f"s{number:05}.svs").hardlink_to(source)


def bare_loop(folder: Path, count: int) -> tuple[list[Any], float]:
    """What each distinct slide's predictions are, and seconds a slide in a loop without an archive,
    over ``count`` of them."""
    quiet = PredictOptions(html=False, heatmaps=False, geojson=False)
    engine = EngineOptions(backend="onnxruntime", threads=1)
    with Predictor.open(folder / "tiny.pgrt", engine) as predictor:
        distinct = [folder / "distinct" / f"{number}.svs" for number in range(DISTINCT)]
        found = [predictor.predict(slide, quiet) for slide in distinct]
        slides = sorted((folder / "slides").iterdir())[:count]
        began = time.perf_counter()
        for _ in predictor.predict_many(slides, folder / "loop", quiet):
            pass
        seconds = (time.perf_counter() - began) / len(slides)
    plain = [[one.to_dict() for one in report.predictions] for report in found]
    return json.loads(json.dumps(plain)), seconds


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """The address of a Ray with so many workers' places, whatever this machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # On a machine that others keep busy its servers may be slow to answer.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": workers, "object_store_memory": 80 << 20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield started.address
    finally:
        started.shutdown()


def command(folder: Path, address: str) -> list[str]:
    given = [str(folder / "slides"), "--bundle", str(folder / "tiny.pgrt"), "--ray", address]
    given += ["--out", str(folder / "out"), "--threads", "1", *_PLAIN, "--quiet"]
    return [sys.executable, "-m", "pathgene_rt.cli", "archive", "predict", *given]


def run_with_kills(
    drill: Drill, address: str, kills: int, seed: int, between: float, limit_s: float
) -> None:
    """Until the command says that all is done, or the time is up. Raises SystemExit if it fails."""
    folder, tally = drill.folder, drill.tally
    chance = random.Random(seed + tally.kills)
    driver: subprocess.Popen[bytes] | None = None
    log = (folder / "driver.log").open("ab")
    (folder / "out").mkdir(exist_ok=True)
    began = told = time.monotonic()
    done = tally.see(folder / "out")
    next_kill = done + chance.expovariate(1 / between)
    while True:
        if driver is None:
            driver = subprocess.Popen(command(folder, address), stderr=log, stdout=log)
            tally.starts += 1
            drill.tell(f"{done} results; driver {driver.pid} started")
        time.sleep(0.2)
        now = time.monotonic()
        done = tally.see(folder / "out")
        if now - began > limit_s:
            driver.kill()
            driver.wait()
            drill.tell(f"{done} results; stopped, the time is up")
            time.sleep(_GONE_S)
            return
        code = driver.poll()
        if code == 0:
            drill.tell(f"{done} results; the driver has ended: all done")
            return
        if code is not None:  # 7: some were set aside, by kills alone; the next run does them
            if code == 1 and "GCS" in _last_line(folder / "driver.log"):
                drill.tell(f"{done} results; the driver has ended: Ray's server did not answer it")
            elif code not in (-signal.SIGKILL, 7):
                raise SystemExit(f"the driver ended with {code}; see {folder / 'driver.log'}")
            elif code == 7:
                drill.tell(f"{done} results; the driver has ended: some slides were set aside")
            driver = None
            continue
        if now - told > _TELL_S:
            told = now
            drill.tell(f"{done} results")
        if tally.kills < kills and done >= next_kill:
            next_kill = done + chance.expovariate(1 / between)
            killed = _kill_one(driver, chance, tally)
            if killed:
                drill.tell(f"{done} results; kill {tally.kills}: {killed}")


def _last_line(path: Path) -> str:
    return (path.read_text(errors="replace").splitlines() or [""])[-1]


def _kill_one(driver: subprocess.Popen[bytes], chance: random.Random, tally: Tally) -> str:
    """Whom it has killed, empty if there was nobody."""
    if chance.random() < _DRIVER_SHARE:
        driver.kill()
        tally.drivers += 1
        return f"the driver {driver.pid}"
    actors = [
        one
        for one in psutil.process_iter(["name"])
        if one.info["name"] == _ACTOR[:15] or one.info["name"].startswith(_ACTOR)
    ]
    if not actors:
        return ""
    chosen = chance.choice(actors)
    with suppress(psutil.NoSuchProcess):
        chosen.kill()
        tally.workers += 1
        return f"worker {chosen.pid} of {len(actors)}"
    return ""


def check(drill: Drill, slides: int, quiet: list[Any]) -> str:
    """What the results are, against the quiet run."""
    out = drill.folder / "out"
    drill.tally.see(out)
    found = sorted(path for path in out.iterdir() if path.is_dir() and path.name != ".archive")
    wanted = {f"s{number:05}" for number in range(slides)}
    names = {path.name for path in found}
    begun = read_status(out).slides
    differing = 0
    for path in found:
        report = json.loads((path / "report.json").read_text())
        number = int(path.name[1:]) % DISTINCT
        differing += report["predictions"] != quiet[number] or report["slide"] != path.name
    left = [path for path in (out / ".archive").rglob("*") if path.is_file()]
    left = [path.name for path in left if path.name != "state.sqlite"]
    more = len(names - wanted) + len(found) - len(names)
    return (
        f"{len(found)} results, state {begun}: {len(wanted - names)} not there, {more} more than "
        f"one, {len(drill.tally.replaced)} replaced, {differing} differ from the quiet run, "
        f"{len(left)} files left of attempts"
    )


def overhead(folder: Path, address: str, alone_s: float, count: int) -> str:
    """One worker on ``count`` slides, without kills."""
    few = folder / "few"
    few.mkdir()
    for path in sorted((folder / "slides").iterdir())[:count]:
        (few / path.name).hardlink_to(path)
    arguments = command(folder, address)
    arguments[arguments.index(str(folder / "slides"))] = str(few)
    arguments[arguments.index(str(folder / "out"))] = str(folder / "one")
    subprocess.run([*arguments, "--workers", "1"], check=True)
    ends = [at for at, what in read_events(folder / "one") if "opened" in what]
    last = max(path.stat().st_mtime for path in (folder / "one").glob("*/report.json"))
    each_s = (last - ends[0]) / count
    return (
        f"a slide: {1000 * alone_s:.1f} ms in a bare loop, {1000 * each_s:.1f} ms by one worker; "
        f"{1000 * (each_s - alone_s):+.1f} ms"
    )


class InstantPool:
    """64 workers that end each task at once: what is left is the driver."""

    def __init__(self) -> None:
        self._started = 0
        self._events: list[Event] = []

    def wanted(self) -> int:
        return 64

    def start(self) -> int:
        self._started += 1
        hello = Hello(f"node{self._started % 8}", self._started, time.time(), "none")
        self._events.append(Opened(self._started, hello))
        return self._started

    def submit(self, worker: int, task: Task, name: str) -> None:  # noqa: ARG002
        self._events.append(Finished(worker, Ended("done", seconds=60.0, tiles=10_000)))

    def prepare(self, worker: int, task: SlideTask) -> None:
        """Nothing."""

    def stop(self, worker: int) -> None:
        """Nothing."""

    def wait(self, timeout_s: float) -> list[Event]:  # noqa: ARG002
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Nothing."""


def plan(count: int) -> str:
    """What a run over ``count`` slides in cases of three costs the driver."""
    with tempfile.TemporaryDirectory() as place:
        layout = ArchiveLayout(Path(place))
        slides = [
            ArchiveSlide(
                f"TCGA-{number:07}-01Z-00-DX1",
                f"/archive/2024/{number // 1000:05}/TCGA-{number:07}-01Z-00-DX1.svs",
                10**9 + number * 7919 % 10**9,
                case=f"TCGA-{number // 3:07}",
            )
            for number in range(count)
        ]
        began = time.perf_counter()
        with ArchiveState(layout.state) as state:
            facts = {"bundle": "b", "bundle_sha256": ""}
            before = state.begin("predict", slides, "here", 1, facts)
            queue = TaskQueue(in_order(slides, before), cases_of(slides))
            result = ArchiveRun(FolderResults(layout), queue, InstantPool(), state).run()
        seconds = time.perf_counter() - began
        assert result.slides["done"] == count
        looked = time.perf_counter()
        read_status(layout.out)
        looked = time.perf_counter() - looked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return (
            f"{count} slides: driver {peak / 1e9:.2f} GB at most, "
            f"{1000 * seconds / count:.3f} ms a slide; state "
            f"{layout.state.stat().st_size / 1e6:.0f} MB, status in {looked:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--between", type=float, default=50.0, help="Results between two kills.")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="End it, done or not.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="Keep the drill here, and go on with it.")
    parser.add_argument("--plan", type=int, default=0, help="Only what so many cost the driver.")
    options = parser.parse_args()
    if options.plan:
        print(plan(options.plan))
        return
    folder = options.work or Path(tempfile.mkdtemp(prefix="archive-"))
    if not (folder / "slides").is_dir():
        folder.mkdir(exist_ok=True)
        write_archive(folder, options.slides)
    drill = Drill(folder)
    few = min(50, options.slides)
    quiet, alone_s = bare_loop(folder, few)
    with cluster(WORKERS) as address:
        run_with_kills(
            drill, address, options.kills, options.seed, options.between, options.limit_s
        )
        tally = drill.tally
        drill.tell(
            f"{options.slides} slides, {tally.workers} workers and {tally.drivers} drivers killed, "
            f"{tally.starts} starts"
        )
        drill.tell(check(drill, options.slides, quiet))
        if not options.work:
            print(overhead(folder, address, alone_s, few))
    if not options.work:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
