"""``pathgene-rt demo``: the whole way on generated slides, by the commands a user would type."""

from __future__ import annotations

import csv
import json as jsonlib
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console
from pathgene_rt.errors import OutputError, PathGeneError

_MARK = ".pathgene-rt-demo"
_TRAINING, _TRAINING_PX = 25, (1536, 1408)
"""Slides to train on: about 16 tiles each, since most of the demo is encoding them."""

_HELD_OUT, _HELD_OUT_PX = 2, (2048, 1792)
"""Slides to predict: one of either answer for either gene, large enough to show a heatmap."""

_CONFIG = """\
# Written by `pathgene-rt demo`. docs/train.example.toml explains every key.
[data]
features = "features"
labels = "slides/labels.csv"

[[head]]
name = "egfr"
architecture = "abmil"
task = "EGFR"
kind = "mutation"
gene = "EGFR"

[[head]]
name = "tp53"
architecture = "clam_sb"
task = "TP53"
kind = "mutation"
gene = "TP53"
"""

_STEPS: tuple[tuple[str, str], ...] = (
    (
        "The encoder alone becomes a bundle, to extract features with (in float32)",
        "export --encoder ctranspath.pth --out encoder.pgrt --no-float16",
    ),
    (
        "Features of the training slides, by the runtime that will predict",
        "extract slides --bundle encoder.pgrt --out features",
    ),
    ("ABMIL for EGFR and CLAM-SB for TP53", "train train.toml --out run"),
    (
        "Encoder and heads become one bundle, compared with torch before it is written",
        "export --encoder encoder.pgrt --head run/egfr.pt --head run/tp53.pt --out lung.pgrt "
        "--no-float16 --no-check-tensorrt",
    ),
    (
        "Engines for this machine: the fastest precision that keeps the limits",
        "build lung.pgrt",
    ),
    ("The bundle's golden outputs, replayed on this machine", "verify lung.pgrt"),
    ("Two slides that no head has seen", "predict held-out --bundle lung.pgrt"),
)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything.")] = Path(
        "demo-out"
    ),
) -> None:
    """Generate slides, train two heads, export a bundle, predict slides never trained on."""
    from pathgene_rt.export.requirements import require_export
    from pathgene_rt.training.requirements import require_training

    require_export()
    require_training()
    console = Console()
    began = time.monotonic()
    _fresh_folder(out)
    console.say("# Generated H&E-like slides, and a CTransPath with seeded (not trained) weights")
    truth = _prepare(out)
    console.say(f"{_TRAINING} slides to train on, {_HELD_OUT} held out.")
    for number, (title, command) in enumerate(_STEPS, 1):
        console.say(f"\n# {number}. {title}\n$ pathgene-rt {command}")
        _run(command.split(), out)
    console.say("\n# What the slides were generated as, and what was predicted")
    right = _compare(out, truth, console)
    console.say(f"{right} of {2 * len(truth)} predictions are right.")
    console.say(f"Reports, heatmaps and GeoJSON: {(out / 'predictions').resolve()}")
    console.say(
        "Look at them: pathgene-rt view "
        f"{shlex.quote(str(out / 'predictions'))} --slides {shlex.quote(str(out / 'held-out'))}"
    )
    console.say(
        "These are synthetic slides and synthetic weights: the figures say that the chain works, "
        "nothing about any patient or gene."
    )
    console.say(f"{time.monotonic() - began:.0f} s in all.")
    if right < 2 * len(truth):
        raise PathGeneError("the demo predicted wrongly; please report it with the output above")


def _fresh_folder(out: Path) -> None:
    """Empty an earlier demo's folder; refuse any other that is not empty."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise OutputError(f"{out} holds files that are not an earlier demo's; choose another")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).write_text("This folder is emptied by the next `pathgene-rt demo`.\n")
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}; choose another") from error


def _prepare(out: Path) -> dict[str, dict[str, str]]:
    """Write slides, labels, weights and the config; the held-out slides' labels by slide id."""
    import torch

    from pathgene_rt.training.encoders.ctranspath import CTransPath
    from pathgene_rt.training.synthetic.slides import write_cohort

    write_cohort(out / "slides", _TRAINING, seed=1, size_px=_TRAINING_PX)
    labels = write_cohort(
        out / "held-out", _HELD_OUT, seed=1, size_px=_HELD_OUT_PX, first=_TRAINING
    )
    with labels.open(newline="", encoding="utf-8") as file:
        truth = {row["slide_id"]: row for row in csv.DictReader(file)}
    torch.save(CTransPath.seeded(1).state_dict(), out / "ctranspath.pth")
    (out / "train.toml").write_text(_CONFIG)
    return truth


def _run(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pathgene_rt.cli", *arguments]
    finished = subprocess.run(command, cwd=folder, check=False)
    if finished.returncode != 0:
        raise PathGeneError(
            f"pathgene-rt {arguments[0]} ended with exit code {finished.returncode}; see above"
        )


def _compare(out: Path, truth: dict[str, dict[str, str]], console: Console) -> int:
    rows = []
    right = 0
    for slide, labels in truth.items():
        report = jsonlib.loads((out / "predictions" / slide / "report.json").read_text())
        for prediction in report["predictions"]:
            expected = labels[prediction["gene"]]
            right += prediction["call"] == expected
            chance = max(prediction["probabilities"])
            rows.append([slide, prediction["gene"], expected, prediction["call"], f"{chance:.2f}"])
    console.table("", ["slide", "gene", "generated as", "predicted", "probability"], rows)
    return right
