"""Slide to features: this runtime beside the field's pipelines, same slides, weights and tiles.

    python benchmarks/end_to_end.py [SLIDE ...] [--quick] [--first-batch]
        [--trident-python PYTHON]

One slide is generated at 20x and one at 40x, and of each SLIDE, a small one, copies side by side
are declared to be a 40x slide: generated tissue is sharper than real tissue, whose pixels decode at
reduced size with little error. Tiles are 0.5 um/px on all. Compared, in one run: this runtime in
bfloat16 and float32, its encoder alone (`runtime_pipeline.py`), extraction as CLAM does it
(`reference_pipeline.py`) at CLAM's batch of 256 and at torch's best, and TRIDENT
(`trident_pipeline.py`). bfloat16 runs before and after the others, so that the drift of a shared
machine falls on both sides of a ratio. Weights are seeded: features say nothing about tissue, but
rates and memory do not depend on their values. Slides come from the page cache, for every side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from reference_pipeline import batch_rates, extract

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.engines.engine import LIMITS
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.geometry import Float32Array, TileGrid
from pathgene_rt.slides import open_slide
from pathgene_rt.tiles.grid import make_grid, scale_of_span
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.synthetic.slide_layouts import SlideLayout, write_layout
from pathgene_rt.training.synthetic.slides import write_slide

HERE = Path(__file__).parent
CLAM_BATCH = 256
PROBED_BATCHES = (8, 16, 32, 64)
SCALES = {"20x": 0.5, "40x": 0.25}
TILE_UM = 128.0
TISSUE = 0.5
LARGE_PX = 60_000
LARGE_TISSUE = 0.01
OTHERS = {"CLAM": 9.0, "torch at its best batch": 4.0, "TRIDENT": 8.0}
"""The other sides and by what factor this runtime is to be faster."""


@dataclass
class Comparison:
    """What was measured on one slide. ``others`` are tiles per second, opening to features."""

    slide: Path
    ours: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    trident: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)


def main(
    slides: Annotated[list[Path] | None, typer.Argument(help="More slides.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer tiles, one pass of bfloat16.")] = False,
    tiles: Annotated[int | None, typer.Option(help="About as many on a generated slide.")] = None,
    trident_python: Annotated[Path | None, typer.Option(help="One that has TRIDENT.")] = None,
    first_batch: Annotated[bool, typer.Option(help="Also slides of 60,000 px a side.")] = False,
    seed: int = 1,
) -> None:
    """Print one JSON line a run, then tables of ratios."""
    tiles = tiles or (300 if quick else 384)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, seed, trident_python, quick)
        compared = []
        for scale, mpp in SCALES.items():
            compared.append(folder / f"generated-{scale}.svs")
            side_px = round(TILE_UM / mpp * (tiles / TISSUE) ** 0.5)
            write_slide(compared[-1], (side_px, side_px), mpp, seed=seed, tissue_share=TISSUE)
        for slide in slides or ():
            compared += [slide, folder / f"{slide.stem}-as-40x.svs"]
            write_copies(slide, compared[-1], SCALES["40x"])
        rows = [bench.compare(slide) for slide in compared]
        large = bench.first_batches() if first_batch else None
    print_rates(rows)
    if trident_python is None:
        print("\nTRIDENT was left out: give --trident-python an interpreter that has it.")
    if large is not None:
        print_first_batches(large)


class Bench:
    """The weights, as a bundle and as checkpoints of the other sides, and one run of each side."""

    def __init__(self, folder: Path, seed: int, trident_python: Path | None, quick: bool) -> None:
        self.folder = folder
        self.trident_python = trident_python
        self.passes = 1 if quick else 2
        self.encoder = CTransPath.seeded(seed).eval()
        self.bundle, self.checkpoint = folder / "encoder.pgrt", folder / "ctranspath.pth"
        torch.save({"model": self.encoder.state_dict()}, self.checkpoint)
        command = [sys.executable, "-m", "pathgene_rt.cli", "export", "--quiet"]
        command += ["--encoder", str(self.checkpoint), "--out", str(self.bundle)]
        subprocess.run(command, check=True)
        with Bundle.open(self.bundle) as opened:
            self.preprocess = opened.preprocess
        rates = batch_rates(
            self.encoder, PROBED_BATCHES[: 2 if quick else None], self.preprocess.resize_px
        )
        self.best_batch = max(rates, key=lambda batch: rates[batch])
        emit("torch encoder alone, tiles/s by batch", None, rates)

    def compare(self, slide: Path) -> Comparison:
        """Every side on ``slide``."""
        row = Comparison(slide)
        row.ours["bfloat16"] = self.ours(slide, "bfloat16")
        bag = self.features("bfloat16", slide)
        grid = grid_of(slide, self.preprocess, bag)
        for name, batch in (("CLAM", CLAM_BATCH), ("torch at its best batch", self.best_batch)):
            result = extract(slide, grid, self.encoder, self.preprocess, batch)
            row.others[name] = result.tiles_per_second
            emit(f"reference, batch {batch}", slide, {"tiles_per_second": result.tiles_per_second})
        row.ours["float32"] = self.ours(slide, "float32")
        if self.trident_python is not None:
            features = self.trident(slide, row)
            row.errors["TRIDENT"] = error_of(features, result.features)
        for _ in range(self.passes - 1):
            row.ours["bfloat16"]["rounds"] += self.ours(slide, "bfloat16")["rounds"]
        for precision in row.ours:
            found = self.features(precision, slide)
            row.errors[precision] = error_of(found.features, result.features)
        emit("e (median, maximum)", slide, row.errors)
        return row

    def ours(
        self, slide: Path, precision: str, cache: str = "cache", encoder_s: float = 4.0
    ) -> dict[str, Any]:
        """The runtime in a process of its own; see ``runtime_pipeline.py``."""
        script = [sys.executable, HERE / "runtime_pipeline.py"]
        files = [slide, self.bundle, self.out(precision, slide)]
        options = ["--precision", precision, "--encoder-s", encoder_s]
        row = last_json([*script, *files, *options, "--cache", self.folder / cache])
        emit(f"pathgene-rt {precision}", slide, row)
        return row

    def trident(self, slide: Path, row: Comparison) -> Float32Array:
        """TRIDENT's features float32 [N, 768] of the tiles that the runtime encoded."""
        script = [self.trident_python, HERE / "trident_pipeline.py"]
        coords = self.out("bfloat16", slide) / "features.h5"
        out = self.folder / f"trident-{slide.stem}"
        figures = last_json([*script, slide, self.checkpoint, coords, out])
        row.others["TRIDENT"] = figures["tiles_per_second"]
        row.trident = figures
        emit("TRIDENT", slide, figures)
        return read_features(Path(figures["features"])).features

    def first_batches(self) -> dict[str, dict[str, Any]]:
        """bfloat16 on two large slides of little tissue, by scale; nothing known of them before."""
        found = {}
        for scale, mpp in SCALES.items():
            slide = self.folder / f"large-{scale}.svs"
            write_slide(slide, (LARGE_PX, LARGE_PX), mpp, tissue_share=LARGE_TISSUE)
            found[scale] = self.ours(slide, "bfloat16", cache=f"cache-{scale}", encoder_s=0.0)
            slide.unlink()
        return found

    def out(self, precision: str, slide: Path) -> Path:
        return self.folder / f"{precision}-{slide.stem}"

    def features(self, precision: str, slide: Path) -> FeatureBag:
        return read_features(self.out(precision, slide) / "features.h5")


def write_copies(slide: Path, path: Path, mpp: float) -> None:
    """4 x 4 copies of ``slide``, mirrored in turn so that they join, as a slide of ``mpp``.

    Whole tiles of OpenSlide's Aperio test slide, and stored like it: its JPEG blocks lie on blocks
    again, so that compressing them once more changes next to nothing.
    """
    layout = SlideLayout(tile_px=240, quality=30, ycbcr=False, shared_tables=True, bigtiff=True)
    with open_slide(slide) as source:
        width, height = (side // layout.tile_px * layout.tile_px for side in source.info.size_px)
        rgb = source.read((0, 0), 0, (width, height))
    for axis in (0, 1):
        rgb = np.concatenate([rgb, np.flip(rgb, axis)] * 2, axis)
    write_layout(path, [rgb, np.asarray(Image.fromarray(rgb).reduce(4))], layout, mpp)


def grid_of(slide: Path, preprocess: Preprocess, bag: FeatureBag) -> TileGrid:
    """The grid that the runtime used, so that all sides encode the same tiles."""
    with open_slide(slide) as source:
        scale = scale_of_span(source.info, preprocess, bag.span_px)
        return make_grid(source.info, preprocess, scale, bag.xy, np.ones(len(bag), np.float32))


def error_of(features: Float32Array, reference: Float32Array) -> tuple[float, float]:
    """The fidelity error: (of the median tile, of the worst)."""
    error = fidelity_error(features, reference)
    return error.median, error.maximum


def last_json(command: Sequence[object]) -> dict[str, Any]:
    """What the program printed last."""
    finished = subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return row


def emit(side: str, slide: Path | None, figures: object) -> None:
    name = None if slide is None else slide.stem
    print(json.dumps({"side": side, "slide": name, "figures": figures}), flush=True)


def print_rates(rows: Sequence[Comparison]) -> None:
    """Ratios with their bars, then how they came about."""
    print("\nTiles/s from opening the slide to the written features, and as ratios to the others\n")
    lines = []
    for row, precision, ours in runs_of(rows):
        whole = middle(ours, "whole")
        others = (row.others.get(name) for name in OTHERS)
        lines.append([row.slide.stem, precision, str(ours["rounds"][0]["tiles"]), f"{whole:.1f}"])
        lines[-1] += ["left out" if other is None else f"{whole / other:.1f}" for other in others]
        lines[-1] += [f"{share(ours, part):.3f}" for part in ("streaming", "whole")]
        lines[-1] += [f"{middle(ours, 'busy_share'):.1%}"]
    ratios = [f"x {name} (>= {bar:g})" for name, bar in OTHERS.items()]
    alone = ["streaming / encoder alone (>= 0.95)", "whole / encoder alone", "busy (>= 97 %)"]
    print_table(["slide", "precision", "tiles", "tiles/s", *ratios, *alone], lines)
    print("\nStreaming is between first and last batch.\n")
    lines = []
    for row, precision, ours in runs_of(rows):
        first, last = ours["rounds"][0], ours["rounds"][-1]
        lines.append([row.slide.stem, precision, f"{row.errors[precision][0]:.4f}"])
        lines[-1] += [f"{LIMITS[precision]:g}", f"{row.errors[precision][1]:.4f}"]
        lines[-1] += [f"{middle(ours, 'first_batch_s'):.2f}", f"{first['first_batch_s']:.2f}"]
        lines[-1] += [f"{ours['peak_rss_mb']:.0f}", last["reader"], last["decode"], ours["engine"]]
    head = ["slide", "precision", "e median", "limit", "e max", "first batch s", "of first slide s"]
    print_table([*head, "peak RSS MB", "reader", "decode", "engine"], lines)
    for row in rows:
        if row.trident:
            seconds = ", ".join(f"{name} {s:.1f}" for name, s in row.trident["stages_s"].items())
            print(f"\n{row.slide.stem}: TRIDENT's seconds: {seconds}; its features have e ", end="")
            print(f"{row.errors['TRIDENT'][0]:.6f}")


def runs_of(rows: Sequence[Comparison]) -> Iterator[tuple[Comparison, str, dict[str, Any]]]:
    for row in rows:
        for precision, ours in row.ours.items():
            yield row, precision, ours


def middle(ours: dict[str, Any], name: str) -> float:
    """Median over the rounds that knew what the first one found out (the check of decoding)."""
    return median(row[name] for row in ours["rounds"][1:])


def share(ours: dict[str, Any], part: str) -> float:
    """Of the rate of the encoder alone, around each round."""
    return median(row[part] / row["encoder_alone"] for row in ours["rounds"][1:])


def print_first_batches(large: dict[str, dict[str, Any]]) -> None:
    """Seconds by stage, for the first slide of its kind on a machine and for the next."""
    print(f"\nTime to the first batch, {LARGE_PX} x {LARGE_PX} px (<= 1 s)\n")
    stages = ("open", "tissue_and_grid", "first_batch", "decode_check")
    lines = [
        [scale, str(number), str(row["tiles"]), f"{row['first_batch_s']:.2f}"]
        + [f"{row['stages_s'].get(stage, 0.0):.2f}" for stage in stages]
        + [f"{ours['peak_rss_mb']:.0f}", f"{row['reader']}, {row['decode']}"]
        for scale, ours in large.items()
        for number, row in enumerate(ours["rounds"], start=1)
    ]
    words = ["open", "tissue, grid", "first tiles", "decode check, at the end"]
    print_table(
        ["slide", "round", "tiles", "first batch s", *words, "peak RSS MB", "reader, decode"], lines
    )


def print_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    typer.run(main)
