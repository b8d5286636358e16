"""Slide to features: this runtime beside extraction as CLAM runs it, same slide, weights and tiles.

    python benchmarks/end_to_end.py [SLIDE] [--precision float32 --precision bfloat16]

Both sides run in this one call, in turn: the reference (openslide, PIL, torch float32; CLAM's
default batch of 256, and 16, which suits CPUs better) here, the runtime in a process of its own, as
a user runs it and so that its peak memory is its own. Without SLIDE one is generated. Weights are
seeded, so features say nothing about tissue; rates and memory do not depend on their values.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from reference_pipeline import extract

from pathgene_rt.bundle import Bundle
from pathgene_rt.engines.compare import fidelity_error
from pathgene_rt.features import read_features
from pathgene_rt.slides import open_slide
from pathgene_rt.tiling import make_grid, scale_of_span
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.synthetic_slides import write_slide

CLAM_BATCH = 256
BEST_BATCH = 16

_CHILD = """
import json, sys, time, resource
began = time.perf_counter()
from pathlib import Path
from pathgene_rt import EngineOptions, PredictOptions, Predictor, write_features
slide, bundle, out, precision = sys.argv[1:]
with Predictor.open(Path(bundle), EngineOptions(precision=precision)) as predictor:
    ready = time.perf_counter()
    bag, stats = predictor.extract(Path(slide), PredictOptions())
    seconds = time.perf_counter() - ready
    engine = predictor.notes[-1]
assert "torch" not in sys.modules
write_features(Path(out), bag)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "start_s": ready - began, "busy_share": stats.busy_share,
                  "first_batch_s": stats.first_batch_s, "peak_rss_mb": peak, "engine": engine}))
"""


def main(
    slide: Annotated[Path | None, typer.Argument(help="A slide; else one is generated.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Precisions of the runtime.")] = None,
    size_px: Annotated[int, typer.Option(help="Side of the generated slide.")] = 8192,
    seed: int = 1,
) -> None:
    """Print one JSON line a run, then a table of ratios."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), slide, precision or ["float32", "bfloat16"], size_px, seed)


def run(folder: Path, slide: Path | None, precisions: list[str], size_px: int, seed: int) -> None:
    if slide is None:
        slide = folder / "generated.svs"
        write_slide(slide, (size_px, size_px), seed=seed)
    encoder = CTransPath.seeded(seed).eval()
    checkpoint, bundle = folder / "ctranspath.pth", folder / "encoder.pgrt"
    torch.save(encoder.state_dict(), checkpoint)
    command = [sys.executable, "-m", "pathgene_rt.cli", "export", "--quiet"]
    subprocess.run([*command, "--encoder", checkpoint, "--out", bundle], check=True)
    ours: dict[str, dict[str, Any]] = {}
    for name in precisions:
        ours[name] = child(slide, bundle, folder / f"{name}.h5", name)
        emit("pathgene-rt", name, ours[name])
    grid, preprocess = tiles_of(slide, bundle, folder / f"{precisions[0]}.h5")
    reference: dict[str, float] = {}
    for batch in (CLAM_BATCH, BEST_BATCH):
        result = extract(slide, grid, encoder, preprocess, batch)
        reference[f"CLAM's way, batch {batch}"] = result.tiles_per_second
        emit("reference", f"batch {batch}", {"tiles_per_second": result.tiles_per_second})
    for name, row in ours.items():
        features = read_features(folder / f"{name}.h5").features
        error = fidelity_error(features, result.features)
        row |= {"e_median": error.median, "e_max": error.maximum}
    table(ours, reference, len(grid))


def child(slide: Path, bundle: Path, out: Path, precision: str) -> dict[str, Any]:
    arguments = [sys.executable, "-c", _CHILD, str(slide), str(bundle), str(out), precision]
    finished = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(finished.stdout)
    row["tiles"] = len(read_features(out))
    row["tiles_per_second"] = row["tiles"] / row["seconds"]
    return row


def tiles_of(slide: Path, bundle: Path, features: Path) -> tuple[Any, Any]:
    """The grid that the runtime used, so that both sides encode the same tiles."""
    bag = read_features(features)
    with Bundle.open(bundle) as opened, open_slide(slide) as source:
        preprocess = opened.preprocess
        scale = scale_of_span(source.info, preprocess, bag.span_px)
        shares = np.ones(len(bag), np.float32)
        return make_grid(source.info, preprocess, scale, bag.xy, shares), preprocess


def emit(side: str, name: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"side": side, "run": name, **figures}), flush=True)


def table(ours: dict[str, dict[str, Any]], reference: dict[str, float], tiles: int) -> None:
    print(f"\n{tiles} tiles; rates include opening the slide and finding tissue\n")
    for name, rate in reference.items():
        print(f"{name:28} {rate:7.1f} tiles/s")
    for name, row in ours.items():
        ratios = ", ".join(
            f"{row['tiles_per_second'] / rate:.1f} x {other}" for other, rate in reference.items()
        )
        print(f"pathgene-rt {name:16} {row['tiles_per_second']:7.1f} tiles/s = {ratios}")
        print(
            f"{'':28} e median {row['e_median']:.5f}, max {row['e_max']:.5f}; encoder busy "
            f"{row['busy_share']:.1%}; first batch after {row['first_batch_s']:.2f} s; "
            f"peak RSS {row['peak_rss_mb']:.0f} MB; {row['engine']}"
        )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'reference process':28} peak RSS {own:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
