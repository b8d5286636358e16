"""Whether memory grows with the slides a process has predicted, good and bad ones.

    python -m benchmarks.slide_soak [--slides 2000] [--seconds 900] [--seed 0]

One predictor (a tiny encoder, ONNX Runtime) takes generated slides, of which every third is damaged
as the fuzz kit damages slides, into folders that are removed again. Told are the resident memory
after 200 slides and at the end, and a table in between (Linux only: read from /proc).
"""

from __future__ import annotations

import collections
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.cli.allocator import bound_arenas
from pathgene_rt.training.synthetic.slides import write_slide
from tests.fuzz.tiff import tiff_changed
from tests.support import tiny_models as tiny

SETTLED, DRAWN = 200, 8
"""Slides after which memory is compared; different slides."""


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def main(
    slides: Annotated[int, typer.Option(help="How many in all.")] = 2000,
    seconds: Annotated[float, typer.Option(help="End after so long, whatever was done.")] = 900.0,
    seed: Annotated[int, typer.Option(help="Of the damage.")] = 0,
) -> None:
    bound_arenas()  # as a command does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PATHGENE_RT_CACHE"] = str(folder / "cache")
        bundle = tiny.tiny_bundle(folder / "tiny.pgrt")
        good = []
        for number in range(DRAWN):
            write_slide(folder / f"good{number}.svs", (768, 640), seed=number)
            good.append((folder / f"good{number}.svs").read_bytes())
        with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
            soak(predictor, folder, good, slides, seconds, random.Random(seed))


def soak(
    predictor: Predictor,
    folder: Path,
    good: list[bytes],
    slides: int,
    seconds: float,
    rng: random.Random,
) -> None:
    """Predict ``slides`` files made of ``good``, and print what memory did."""
    outcomes: collections.Counter[str] = collections.Counter()
    begun, settled, number = time.monotonic(), 0.0, 0
    options = PredictOptions(html=False, heatmaps=False, features=True)
    while number < slides and time.monotonic() - begun < seconds:
        number += 1
        data = rng.choice(good)
        path = folder / "slide.svs"
        path.write_bytes(tiff_changed(rng, data) if number % 3 == 0 else data)
        out = folder / "out"
        (result,) = predictor.predict_many([path], out, options, overwrite=True)
        error = "" if result.error is None else f" ({type(result.error).__name__})"
        outcomes[f"{result.outcome}{error}"] += 1
        del result
        shutil.rmtree(out)
        if number == SETTLED:
            settled = resident_mb()
        if number % 50 == 0:
            sys.stdout.write(f"{number} slides: {resident_mb():.1f} MB\n")
            sys.stdout.flush()
    counts = ", ".join(f"{what} {count}" for what, count in outcomes.most_common())
    sys.stdout.write(f"{number} slides in {time.monotonic() - begun:.0f} s: {counts}\n")
    if settled:
        growth = resident_mb() / settled - 1
        sys.stdout.write(f"{settled:.1f} MB after {SETTLED} slides, {growth:+.1%} since\n")


if __name__ == "__main__":
    typer.run(main)
