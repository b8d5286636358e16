"""Kills watchers at random moments: ``python -m tests.kills.watch 1000 --slides 200 --watchers 3``.

Several watchers share one inbox and one folder of results. Each is killed by SIGKILL at a random
moment and started again, most often while a slide is under way. When every slide is done, or has
failed (one in twenty has no tissue), a new round begins with an empty folder. At the end of
a round each slide has one report, or one reason, equal to that of a watcher that nobody disturbed,
the ledger says so of each, and the audit trail is whole and knows every report by its hash.
``--work DIR`` keeps the slides and the undisturbed run for another time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.audit.verify import verify_trail
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import CancelledError
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.watch.ledger import LEDGER_FILE
from pathgene_rt.watch.settings import WatchSettings
from pathgene_rt.watch.status import watch_status
from pathgene_rt.watch.watcher import Watcher
from tests.support import tiny_models as tiny

STAIN_RGB = (205, 130, 175)
WITHOUT_TISSUE = 20
"""One slide in so many has none, and fails."""


class WatchKillError(AssertionError):
    """A kill that cost a result, or made one twice."""


_CONTEXT = multiprocessing.get_context("forkserver")
"""Watchers start in a few milliseconds: what they import is imported once."""

_IMPORTED = ["pathgene_rt.predictor", "pathgene_rt.watch.watcher", "onnxruntime", "openslide"]


def watch_here(folder: Path, bundle: Path, inbox: Path) -> None:
    """What ``pathgene-rt watch`` does, until SIGTERM."""
    token = CancellationToken()
    signal.signal(signal.SIGTERM, lambda *_: token.cancel(CancelledError("stopped")))
    options = PredictOptions(heatmaps=False, geojson=False, html=False)
    settings = WatchSettings(settle_s=0.1, poll_s=0.1, min_free_bytes=0)
    engine = EngineOptions(backend="onnxruntime", cache_dir=None, threads=1)

    def log(event: str, **_: Any) -> None:
        if event in ("started", "begun"):
            (folder / f"{event}-{os.getpid()}").touch()

    trail = AuditTrail(folder / "audit.jsonl")
    with Predictor.open(bundle, engine, audit=trail) as predictor:
        Watcher(predictor, inbox, folder / "out", options, settings, log=log).run(token)


def write_slides(inbox: Path, count: int) -> None:
    """``count`` slides of a few to some fifty tiles, each with tissue of its own; drawn as noise,
    so that a drill spends its time on watchers."""
    described = "Aperio Image Library (drill)\n|AppMag = 20|MPP = 0.5"
    for number in range(count):
        chance = np.random.default_rng(number)
        pixels = np.full((512, 512, 3), 245, np.uint8)
        wide, high = chance.integers(128, 512, 2)
        noise = chance.integers(-25, 25, (high, wide, 1))
        if number % WITHOUT_TISSUE != WITHOUT_TISSUE - 1:
            pixels[:high, :wide] = (np.array(STAIN_RGB) + noise).astype(np.uint8)
        tifffile.imwrite(
            inbox / f"s{number:03d}.svs",
            pixels,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            metadata=None,
            description=described,
        )


class Running:
    """A watcher's process."""

    def __init__(self, folder: Path, bundle: Path, inbox: Path) -> None:
        self._folder = folder
        self.process = _CONTEXT.Process(target=watch_here, args=(folder, bundle, inbox))
        self.process.start()

    def has(self, event: str) -> bool:
        return (self._folder / f"{event}-{self.process.pid}").exists()

    def wait_for(self, event: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.has(event) and time.monotonic() < end and self.process.is_alive():
            time.sleep(0.003)

    def end(self, *, kill: bool) -> None:
        if not self.process.is_alive():
            raise WatchKillError(f"a watcher ended by itself, {self.process.exitcode}")
        began = self.has("started")
        (self.process.kill if kill else self.process.terminate)()
        self.process.join(120)
        # Before our code runs, SIGTERM is the system's.
        fine = (0,) if began else (0, -signal.SIGTERM)
        if not kill and self.process.exitcode not in fine:
            raise WatchKillError(f"SIGTERM gave exit code {self.process.exitcode}")


def ended(out: Path) -> int:
    """How many slides are done, or have failed."""
    if not (out / LEDGER_FILE).is_file():
        return 0
    counts = watch_status(out)["counts"]
    return int(counts.get("done", 0) + counts.get("failed", 0))


def results(out: Path) -> dict[str, Any]:
    """What each report says of its slide, by the slide's folder, and why others have none."""
    found = {}
    for path in sorted(out.glob("*/report.json")):
        report = json.loads(path.read_text())
        found[path.parent.name] = report["predictions"], report["quality"]
    for path in sorted(out.glob("failed/*.json")):
        found[f"failed/{path.stem}"] = json.loads(path.read_text())["reason"]
    return found


def check(folder: Path, expected: dict[str, Any]) -> int:
    """Whether a round's results are what they should be; lines of reports that a kill kept from
    getting their names. Raises WatchKillError."""
    out = folder / "out"
    status = watch_status(out)
    failed = [name for name in expected if name.startswith("failed/")]
    counts = {"done": len(expected) - len(failed), "failed": len(failed)}
    if status["counts"] != {state: count for state, count in counts.items() if count}:
        raise WatchKillError(f"the ledger says {status}")
    if results(out) != expected:
        raise WatchKillError("other results than undisturbed")
    left = [path for path in out.rglob("*") if path.suffix in (".part", ".partial", ".log")]
    if left or list((out / ".claims").iterdir()):
        raise WatchKillError(f"left behind: {left} {list((out / '.claims').iterdir())}")
    verify_trail(folder / "audit.jsonl")
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]
    told = [(one["slide"]["id"], one["result"]["sha256"]) for one in lines if "slide" in one]
    for name in expected.keys() - set(failed):
        digest = hashlib.sha256((out / name / "report.json").read_bytes()).hexdigest()
        if told.count((name, digest)) != 1:
            raise WatchKillError(f"the audit trail has {told.count((name, digest))} of {name}")
    return len(told) - counts["done"]


def quiet_run(work: Path, bundle: Path, inbox: Path, slides: int) -> dict[str, Any]:
    folder = work / "quiet"
    folder.mkdir(exist_ok=True)
    if ended(folder / "out") < slides:
        running = Running(folder, bundle, inbox)
        while ended(folder / "out") < slides:
            time.sleep(0.5)
            if not running.process.is_alive():
                running.end(kill=False)
        running.end(kill=False)
    expected = results(folder / "out")
    check(folder, expected)
    return expected


def run(
    kills: int,
    slides: int,
    watchers: int,
    seed: int,
    work: Path,
    seconds: float = float("inf"),
) -> str:
    """Kill until there were ``kills`` or ``seconds`` are over, and let the last round end; what
    there is to say.

    Raises WatchKillError."""
    chance = random.Random(seed)
    _CONTEXT.set_forkserver_preload(_IMPORTED)
    inbox, bundle = work / "inbox", work / "tiny.pgrt"
    if len(list(inbox.glob("*"))) != slides:
        inbox.mkdir(parents=True, exist_ok=True)
        tiny.tiny_bundle(bundle)
        write_slides(inbox, slides)
    expected = quiet_run(work, bundle, inbox, slides)
    killed = at_work = rounds = doubled = 0
    until = time.monotonic() + seconds
    while killed < kills and time.monotonic() < until:
        folder = work / f"round{rounds}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        running = [Running(folder, bundle, inbox) for _ in range(watchers)]
        while ended(folder / "out") < slides and killed < kills and time.monotonic() < until:
            victim = chance.randrange(watchers)
            if chance.random() < 0.8:
                running[victim].wait_for("begun", 60)
                time.sleep(chance.uniform(0, 0.4))
            else:
                time.sleep(chance.uniform(0, 1))
            at_work += running[victim].has("begun")
            running[victim].end(kill=True)
            killed += 1
            running[victim] = Running(folder, bundle, inbox)
            if killed % 20 == 0:
                done = ended(folder / "out")
                print(f"{killed} kills, round {rounds}: {done} done", flush=True)  # noqa: T201
        while ended(folder / "out") < slides:
            time.sleep(0.5)
        for one in running:
            one.end(kill=False)
        doubled += check(folder, expected)
        rounds += 1
        shutil.rmtree(folder)
    return (
        f"{killed} kills ({at_work} of watchers that had begun a slide), {rounds} rounds of "
        f"{slides} slides, {watchers} watchers: every slide has one report, the quiet run's; "
        f"{doubled} audit lines are of reports that a kill kept from getting their name"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Kill no longer.")
    parser.add_argument("--work", type=Path, help="Folder to keep; else a temporary one.")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="watch-kills-"))
    said = run(
        options.kills,
        options.slides,
        options.watchers,
        options.seed,
        work,
        options.seconds,
    )
    print(said, flush=True)  # noqa: T201
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
