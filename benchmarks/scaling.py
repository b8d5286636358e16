"""Seconds and peak memory of `predict` against the size of the slide, and slides at the same time.

    python benchmarks/scaling.py [--tiles 1000 --tiles 100000] [--ctranspath 500] [--at-once 256]
        [--bundle FILE.pgrt]

Slides are generated, of the same share of tissue and so of an area that grows with their tiles.
Sizes of ``--tiles`` go through `small_encoder.py`, which gives as many features as CTransPath at
next to no cost: 100,000 tiles of CTransPath take half an hour on two cores, and what may grow with
a slide is all around the encoder. ``--ctranspath`` are sizes with CTransPath itself, for its
memory: seeded, or that of ``--bundle``. Heads are one ABMIL, or the bundle's; all files are
written. ``--at-once`` are the tiles of each of two slides that go through one engine, CTransPath,
one after the other and from two threads. Every run is a process of its own (Linux only: the peak is
read from /proc), whose engine cache is its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from small_encoder import WIDTH, write_small_bundle

from pathgene_rt.bundle.spec import Task
from pathgene_rt.export.export_bundle import export_bundle
from pathgene_rt.export.request import ExportRequest, HeadRequest
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, save_head
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.synthetic.slides import TILE_PX, write_slide

HERE = Path(__file__).parent
TISSUE = 0.6
BAR_MB = 1200
"""Of peak memory beside the bag, at any size."""

LINEAR_FROM = 3000
"""Tiles; in smaller slides what is done once shows."""

Row = dict[str, Any]


def main(
    tiles: Annotated[list[int] | None, typer.Option(help="With the small encoder.")] = None,
    ctranspath: Annotated[list[int] | None, typer.Option(help="With CTransPath.")] = None,
    at_once: Annotated[int, typer.Option(help="Tiles of each of two slides; 0: none.")] = 256,
    precision: Annotated[str, typer.Option(help="Of CTransPath.")] = "float32",
    bundle: Annotated[Path | None, typer.Option(help="Instead of a seeded CTransPath.")] = None,
    seed: int = 1,
) -> None:
    """Print one JSON line a run, then tables. A size of 0 is left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, precision, bundle, seed)
        small = bench.sizes(bench.small, tiles or [1000, 10_000, 100_000], "float32")
        large = bench.sizes(bench.ctranspath, ctranspath or [250, 1000], precision)
        pair = bench.together(at_once) if at_once else None
    if small:
        print_sizes("Small encoder", small)
    if large:
        print_sizes("CTransPath", large)
    if pair is not None:
        print_together(pair)


class Bench:
    """Two bundles with one head, and slides that live as long as a run."""

    def __init__(self, folder: Path, precision: str, bundle: Path | None, seed: int) -> None:
        self.folder = folder
        self.precision = precision
        self.seed = seed
        torch.manual_seed(seed)
        head = heads.create("abmil", in_dim=WIDTH, n_classes=2).eval()
        task = Task(kind="mutation", gene="EGFR")
        self.head = folder / "egfr.pt"
        save_head(self.head, HeadCheckpoint(head, ("wild type", "mutated"), task))
        write_small_bundle(folder / "encoder.pgrt", seed)
        self.small = self.exported("small", folder / "encoder.pgrt")
        if bundle is None:
            torch.save(CTransPath.seeded(seed).state_dict(), folder / "encoder.pth")
            bundle = self.exported("ctranspath", folder / "encoder.pth")
        self.ctranspath = bundle

    def exported(self, name: str, encoder: Path) -> Path:
        out = self.folder / f"{name}.pgrt"
        request = ExportRequest(
            check_tensorrt=False, encoder=encoder, out=out, heads=(HeadRequest(path=self.head),)
        )
        export_bundle(request)
        return out

    def sizes(self, bundle: Path, sizes: list[int], precision: str) -> list[Row]:
        """One slide of about each number of tiles, smallest first."""
        rows = []
        for tiles in sorted(filter(None, sizes)):
            slide, out = self.slide(tiles, self.seed), self.folder / "out"
            row = self.run("one", bundle, slide, out, "--precision", precision)
            slide.unlink()
            rows.append(emit({"encoder": bundle.stem, **row}))
        return rows

    def together(self, tiles: int) -> Row:
        """Two slides of about ``tiles`` tiles each."""
        slides = [self.slide(tiles, self.seed + number) for number in range(2)]
        return emit(self.run("together", self.ctranspath, *slides, "--precision", self.precision))

    def slide(self, tiles: int, seed: int) -> Path:
        side_px = TILE_PX * math.ceil(math.sqrt(tiles / TISSUE))
        path = self.folder / f"{tiles}-{seed}.svs"
        write_slide(path, (side_px, side_px), seed=seed, tissue_share=TISSUE)
        return path

    def run(self, *arguments: object) -> Row:
        command = [sys.executable, str(HERE / "scaling_run.py"), *map(str, arguments)]
        own_cache = {**os.environ, "PATHGENE_RT_CACHE": str(self.folder / "cache")}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own_cache)
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row


def emit(row: Row) -> Row:
    print(json.dumps(row), flush=True)
    return row


def print_sizes(encoder: str, rows: list[Row]) -> None:
    first, last = rows[0], rows[-1]
    print(f"\n{encoder} ({last['engine']}; {last['reader']})\n")
    print("| tiles | seconds | ms a tile | encoding | peak RSS | bag | peak less bag | bar |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        beside = row["peak_rss_mb"] - row["bag_mb"]
        cells = (
            f"{row['tiles']:,}",
            f"{row['seconds']:.1f}",
            f"{1000 * row['seconds'] / row['tiles']:.2f}",
            f"{row['tiles_per_second']:.0f} tiles/s",
            *(f"{megabytes:.0f} MB" for megabytes in (row["peak_rss_mb"], row["bag_mb"], beside)),
            "kept" if beside <= BAR_MB else "MISSED",
        )
        print(f"| {' | '.join(cells)} |")
    grown = (last["peak_rss_mb"] - last["bag_mb"]) - (first["peak_rss_mb"] - first["bag_mb"])
    times = last["tiles"] / first["tiles"]
    print(f"\n{times:.0f} x the tiles: peak RSS less the bag grew by {grown:.0f} MB")
    whole = [row for row in rows if row["tiles"] >= LINEAR_FROM]
    if len(whole) > 1:
        logs = np.log([[row["tiles"], row["seconds"]] for row in whole])
        power = np.polyfit(logs[:, 0], logs[:, 1], 1)[0]
        print(
            f"from {whole[0]['tiles']:,} tiles on, seconds grow as tiles to the power {power:.2f}"
        )


def print_together(row: Row) -> None:
    apart, at_once = min(row["after_each_other_s"]), min(row["at_once_s"])
    print(
        f"\nTwo slides of {' and '.join(map(str, row['tiles']))} tiles on one CTransPath engine\n"
    )
    print("| one after the other | at once | at once takes | features differ by |")
    print("|--:|--:|--:|--:|")
    print(
        f"| {apart:.1f} s | {at_once:.1f} s | {at_once / apart:.2f} x | {row['difference']:.1e} |"
    )


if __name__ == "__main__":
    typer.run(main)
