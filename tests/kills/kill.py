"""Kills runs at random moments and runs them again: ``python -m tests.kills.kill 60 --seed 1``.

Every job runs undisturbed once. Then each kill starts one anew in an empty folder, ends it by
SIGKILL, SIGTERM or SIGINT after a random part of the time that it takes, and runs the same command
again, which must end with exit code 0, the results of the undisturbed run, its files and no others.
Of features, every batch that was written before the kill is taken over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

BATCH = 1
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXIT_CODES = {
    signal.SIGKILL: (-signal.SIGKILL, 0),
    signal.SIGTERM: (-signal.SIGTERM, 143, 0),
    # Before Python runs, Ctrl-C is the system's.
    signal.SIGINT: (130, -signal.SIGINT, 0),
}

_PYTHONS_OWN = "Could not import runpy module"
"""What Python says of Ctrl-C before it runs anybody's code."""

_EXPORT = """
from pathgene_rt.export import encoder
from tests.support.exported_models import TinyEncoder
encoder.CTransPath, encoder.FoldedCTransPath, encoder.IMAGE_PX = TinyEncoder, lambda same: same, 48
from pathgene_rt.cli.entry import main
main()
"""
_PANEL = 'encoder = "{0}/encoder.pth"\nout = "{1}/panel.pgrt"\nname = "lung"\n[preprocess]\n{2}'
_PANEL += '[[head]]\npath = "{0}/egfr.pt"\n'


class KillError(AssertionError):
    """A kill that cost more than it may."""


@dataclass(frozen=True)
class Job:
    """``command`` writes its results into the folder that it is given; ``again`` is what is run
    after a kill. ``results`` are what must be equal, by name; ``keeps_rows``: features reach the
    disk as they come."""

    name: str
    command: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, object]]
    keeps_rows: bool = False

    def run(self, out: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, capture_output=True, text=True, check=False, env=_environment(out)
        )


def _environment(out: Path) -> dict[str, str]:
    cache = out.parent / "cache" if out.name != "build" else out
    return {**os.environ, "PATHGENE_RT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def _cli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pathgene_rt.cli", *map(str, arguments)]


def jobs(inputs: Path, names: list[str]) -> list[Job]:
    """What is killed; its inputs are made in ``inputs``, those of training only for ``names``."""
    slides, bundle = inputs / "slides", tiny.tiny_bundle(inputs / "tiny.pgrt")
    slides.mkdir()
    for seed in range(2):
        write_slide(slides / f"s{seed}.svs", (1536, 1536), seed=seed)
    common = (slides, "--bundle", bundle, "--batch", BATCH, "--engine", "onnxruntime")

    def extract(out: Path) -> list[str]:
        return _cli("extract", *common, "--out", out)

    def predict(out: Path) -> list[str]:
        plain = ("--no-html", "--no-heatmaps", "--no-geojson")  # they cost time and are no risk
        return _cli("predict", *common, "--features", "--resume", *plain, "--out", out)

    def build(out: Path) -> list[str]:
        return _cli("build", bundle)

    return [
        Job("extract", extract, extract, _features, keeps_rows=True),
        Job(
            "predict",
            predict,
            predict,
            lambda out: {**_features(out), **_predictions(out)},
            keeps_rows=True,
        ),
        Job("build", build, build, lambda out: {"kept": len(list(out.rglob("*.json"))) > 0}),
        *(_torch_jobs(inputs) if not names or {"export", "train"} & set(names) else ()),
    ]


def _torch_jobs(inputs: Path) -> list[Job]:
    from tests.support.exported_models import write_head, write_tiny_encoder
    from tests.support.training_cohort import write_cohort

    write_tiny_encoder(inputs / "encoder.pth")
    write_head(inputs / "egfr.pt")
    config = write_cohort(inputs / "cohort")

    def export(out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        panel = inputs / f"{out.parent.name}.toml"
        panel.write_text(_PANEL.format(inputs, out, "resize_px = 48\ntile_px = 64\n"))
        return [sys.executable, "-c", _EXPORT, "export", str(panel), "--overwrite"]

    def train(out: Path) -> list[str]:
        return _cli("train", config, "--out", out, "--resume")

    return [Job("export", export, export, _bundle), Job("train", train, train, _heads)]


def _features(out: Path) -> dict[str, object]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.h5"))}


def _predictions(out: Path) -> dict[str, object]:
    reports = sorted(out.rglob("report.json"))
    return {
        str(path.relative_to(out)): json.loads(path.read_text())["predictions"] for path in reports
    }


def _bundle(out: Path) -> dict[str, object]:
    with Bundle.open(out / "panel.pgrt") as bundle:
        models = (bundle.encoder, *(head.model for head in bundle.heads))
        return {model.name: (model.onnx_sha256, model.weights_sha256) for model in models}


def _heads(out: Path) -> dict[str, object]:
    import torch

    found: dict[str, object] = {}
    for path in sorted(out.rglob("*.pt")):
        stored = torch.load(path, weights_only=False)
        weights = stored.get("state_dict", stored) if isinstance(stored, dict) else {}
        for name, value in weights.items():
            if isinstance(value, torch.Tensor):
                found[f"{path.relative_to(out)} {name}"] = np.asarray(value).tobytes()
    return found


def _files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _logs(out: Path, slide: str = "*") -> Iterator[Path]:
    """Of features that are not whole: extract's, and predict's in a folder a slide."""
    yield from out.glob(f"{slide}.h5.partial.log")
    yield from out.glob(f"{slide}/features.h5.partial.log")


def _records(out: Path) -> dict[str, int]:
    """Tiles of the whole lines of each log of features."""
    found = {}
    for log in _logs(out):
        lines = log.read_bytes().split(b"\n")[1:-1]
        found[str(log)] = sum(int(line.split()[1]) for line in lines)
    return found


def _kept(stderr: str) -> int:
    return sum(int(count) for count in re.findall(r"(\d+) of \d+ tiles were encoded", stderr))


def kill_one(job: Job, reference: Path, took_s: float, out: Path, chance: random.Random) -> str:
    """One kill of ``job`` in the empty folder ``out``, and what there is to say of it.

    Raises KillError.
    """
    number = chance.choice(SIGNALS)
    after_s = chance.uniform(0.0, took_s)
    process = subprocess.Popen(
        job.command(out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(out),
    )
    if job.keeps_rows and chance.random() < 0.7:
        # Starting takes longer than the encoding of small slides, which is what is looked at.
        log, after_s = f"{chance.choice(('s0', 's1'))}*", chance.uniform(0.0, took_s / 20)
        while process.poll() is None and not list(_logs(out, log)):
            time.sleep(0.002)
    time.sleep(after_s)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    what = f"{job.name}, {number.name} after {after_s:.2f} of {took_s:.2f} s"
    early = process.returncode == 1 and said.startswith(_PYTHONS_OWN)
    if process.returncode not in EXIT_CODES[number] and not early:
        raise KillError(f"{what}: exit code {process.returncode}: {said.strip()}")
    written = sum(_records(out).values()) if out.exists() else 0
    again = job.run(out, job.again(out))
    if again.returncode != 0:
        raise KillError(f"{what}: run again, exit code {again.returncode}: {again.stderr.strip()}")
    reports = [json.loads(path.read_text())["warnings"] for path in out.rglob("report.json")]
    kept = _kept(again.stderr + json.dumps(reports))
    if kept < written:
        raise KillError(f"{what}: {written} tiles were written, {kept} were taken over")
    if _files(out) != _files(reference):
        differing = set(_files(out)) ^ set(_files(reference))
        raise KillError(f"{what}: other files than undisturbed: {sorted(differing)}")
    if job.results(out) != job.results(reference):
        raise KillError(f"{what}: other results than undisturbed")
    return f"{what}: exit {process.returncode}, {written} tiles kept"


def run(kills: int, seed: int, names: list[str], work: Path) -> list[str]:
    """``kills`` kills, the jobs in turn; a line for each that cost too much."""
    chance, failed = random.Random(seed), []
    inputs = work / "inputs"
    inputs.mkdir()
    chosen = [job for job in jobs(inputs, names) if not names or job.name in names]
    undisturbed: dict[str, tuple[Path, float]] = {}
    for job in chosen:
        out = work / "reference" / job.name
        out.parent.mkdir(exist_ok=True)
        job.run(out, job.command(out))  # once for what is measured or built once
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        finished = job.run(out, job.command(out))
        if finished.returncode != 0:
            raise KillError(f"{job.name} fails undisturbed: {finished.stderr.strip()}")
        undisturbed[job.name] = out, time.monotonic() - began
        print(f"{job.name}: {undisturbed[job.name][1]:.1f} s undisturbed", flush=True)  # noqa: T201
    cache = work / "reference" / "cache"  # what was measured there is not measured again
    cache.mkdir(exist_ok=True)
    for number in range(kills):
        job = chosen[number % len(chosen)]
        folder = work / f"kill{number}"
        folder.mkdir()
        shutil.copytree(cache, folder / "cache")
        reference, took_s = undisturbed[job.name]
        try:
            line = kill_one(job, reference, took_s, folder / job.name, chance)
        except KillError as error:
            line = f"FAILED {error}"
            failed.append(line)
        else:
            shutil.rmtree(folder)
        print(f"{number + 1}/{kills} {line}", flush=True)  # noqa: T201
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", default=[], help="Only this job; repeatable.")
    options = parser.parse_args()
    # A shell starts background jobs with SIGINT ignored, which what is killed would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    failed = run(options.kills, options.seed, options.job, work)
    print(f"{len(failed)} of {options.kills} kills cost too much", *failed, sep="\n")  # noqa: T201
    if failed:
        raise SystemExit(f"kept: {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
