"""What a GPU makes of it: the runtime beside torch, every engine, a whole slide, and the floor.

    python benchmarks/gpu.py [--bundle NAME.pgrt] [--slide SLIDE] [--skip PART ...]

One run, within ten minutes on an H200 with 16 cores. Without --bundle a seeded CTransPath is
exported with an ABMIL head; without --slide a 40x slide of some 30,000 tiles is generated. Each
part (`gpu_parts.py`) runs in a process of its own with a time limit: one that fails is a row that
says why. Compared are:
torch eager float32, which CLAM and TRIDENT run, with and without CLAM's loading; torch under
autocast; torch.compile in float16; every GPU engine that is installed in every precision. The floor
is what the card's measured ceilings allow for the operations and bytes of a tile. Without a GPU it
says so and ends with exit code 5; `--device cpu --tiles 16` tries the parts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from gpu_bench import Row, Settings
from gpu_parts import PARTS

from pathgene_rt.bundle.spec import Task
from pathgene_rt.engines.cuda.driver import cuda_devices, driver_problem
from pathgene_rt.engines.registry import backend_names
from pathgene_rt.training import heads
from pathgene_rt.training.checkpoint import HeadCheckpoint, save_head
from pathgene_rt.training.encoders.ctranspath import CTransPath
from pathgene_rt.training.synthetic.slides import write_slide

HERE = Path(__file__).parent
NO_GPU = 5
"""The exit code of commands that find no engine."""

MPP_40X, TILE_UM, TISSUE = 0.25, 128.0, 0.8
SLIDE_TILES = 30_000
BATCHES = (32, 128, 512)
LIMIT_S = {"torch-compile": 300.0, "engines": 900.0, "slide": 300.0}
OTHER_LIMIT_S = 120.0
ON_CPU = 10
"""Times the limits where parts are only tried."""

BARS = (
    ("onnxruntime-cuda float16", "torch eager float32", 6.0),
    ("onnxruntime-cuda float16", "torch.compile float16", 1.0),
    ("tensorrt float16", "torch eager float32", 6.0),
)
"""(side, other side, by what factor it should be faster)."""

SLIDE_BAR, BUSY_BAR = 5000.0, 0.97


def main(
    bundle: Annotated[Path | None, typer.Option(help="Of a CTransPath of --seed.")] = None,
    slide: Annotated[Path | None, typer.Option(help="Instead of a generated one.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the parts.")] = "cuda",
    tiles: Annotated[int, typer.Option(help="About as many on the generated slide.")] = SLIDE_TILES,
    seed: int = 1,
) -> None:
    """Print a JSON line a measurement, then tables."""
    on_card = device == "cuda"
    if on_card and (problem := driver_problem()):
        print(f"no GPU to measure: {problem}")
        raise typer.Exit(NO_GPU)
    for gpu in cuda_devices() if on_card else ():
        emit({"part": "machine", "side": gpu.name, "memory_gb": gpu.memory_total / 1e9})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = Settings(
            device="cuda" if on_card else "cpu",
            bundle=str(bundle or timed("export", lambda: export(folder, seed))),
            slide=str(slide or timed("generate", lambda: generate(folder, tiles, seed))),
            cache=str(folder / "cache"),
            batches=BATCHES if on_card else (min(4, tiles),),
            engines=backend_names(on_gpu=on_card),
            tiles=min(tiles, 8192),
            seed=seed,
            rounds=5 if on_card else 1,
            seconds=0.5 if on_card else 0.0,
        )
        (folder / "settings.json").write_text(json.dumps(asdict(settings)))
        rows = [
            row
            for part in PARTS
            if part not in (skip or ())
            for row in run_part(part, folder / "settings.json", on_card)
        ]
    print_rates(rows)
    print_floor(rows)
    print_slides(rows)


def run_part(part: str, settings: Path, on_card: bool) -> list[Row]:
    """The part's rows; one that says why if it fails, crashes or takes too long."""
    command = [sys.executable, str(HERE / "gpu_parts.py"), part, str(settings)]
    began = time.perf_counter()
    why, said = "", ""
    limit_s = LIMIT_S.get(part, OTHER_LIMIT_S) * (1 if on_card else ON_CPU)
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
        said = done.stdout
        if done.returncode:
            told = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            why = f"ended with code {done.returncode}: {told[0]}"
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        why = f"took longer than {late.timeout:.0f} s"
    rows: list[Row] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    if why:
        rows.append({"part": part, "side": part, "failed": why})
    for row in rows:
        emit(row)
    emit({"part": part, "side": "seconds in all", "seconds": time.perf_counter() - began})
    return rows


def export(folder: Path, seed: int) -> Path:
    """A seeded CTransPath with an ABMIL head, by the command that a user types."""
    checkpoint, head, bundle = folder / "ctranspath.pth", folder / "egfr.pt", folder / "gpu.pgrt"
    torch.save(CTransPath.seeded(seed).state_dict(), checkpoint)
    torch.manual_seed(seed)
    abmil = heads.create("abmil", in_dim=CTransPath.feature_dim, n_classes=2).eval()
    task = Task(kind="mutation", gene="EGFR")
    save_head(head, HeadCheckpoint(abmil, ("wild type", "mutated"), task))
    command = [sys.executable, "-m", "pathgene_rt.cli", "export", "--quiet"]
    files = ["--encoder", str(checkpoint), "--head", str(head), "--out", str(bundle)]
    subprocess.run([*command, *files], check=True)
    return bundle


def generate(folder: Path, tiles: int, seed: int) -> Path:
    """A 40x slide of about ``tiles`` tiles; encoded tiles repeat, as `write_slide` says."""
    path = folder / "generated-40x.svs"
    side_px = round(TILE_UM / MPP_40X * (tiles / TISSUE) ** 0.5)
    write_slide(path, (side_px, side_px), MPP_40X, seed=seed, tissue_share=TISSUE)
    return path


def timed(what: str, make: Callable[[], Path]) -> Path:
    """What ``make`` made; a line says how long it took."""
    began = time.perf_counter()
    made = make()
    emit({"part": what, "side": made.name, "seconds": time.perf_counter() - began})
    return made


def emit(row: Row) -> None:
    print(json.dumps(row), flush=True)


def best(rows: Sequence[Row], side: str) -> Row | None:
    """The row of the batch at which ``side`` is fastest; None if it was not measured."""
    measured = [row for row in rows if row["side"] == side and "tiles_per_second" in row]
    return max(measured, key=lambda row: float(row["tiles_per_second"]), default=None)


def print_rates(rows: Sequence[Row]) -> None:
    """The encoder alone: each side at its best batch, and as a ratio to torch eager float32."""
    eager = best(rows, "torch eager float32")
    lines = []
    for side in dict.fromkeys(row["side"] for row in rows if is_rate(row)):
        row = best(rows, side)
        if row is None:
            why = next(row["failed"] for row in rows if row["side"] == side)
            lines.append([side, "", "not measured", "", why])
            continue
        rate = row["tiles_per_second"]
        ratio = f"{rate / eager['tiles_per_second']:.2f}" if eager else ""
        error = f"{row['e_median']:.5f}" if "e_median" in row else ""
        lines.append([side, str(row["batch"]), f"{rate:,.1f}", ratio, error])
    print("\nThe encoder alone, each side at its best batch\n")
    print_table(["side", "batch", "tiles/s", "x torch eager float32", "e median"], lines)
    for side, other, factor in BARS:
        ours, theirs = best(rows, side), best(rows, other)
        if ours is not None and theirs is not None:
            ratio = ours["tiles_per_second"] / theirs["tiles_per_second"]
            verdict = "kept" if ratio >= factor else "MISSED"
            print(f"\n{side} is {ratio:.2f} x {other} (bar {factor:g} x: {verdict})")


def is_rate(row: Row) -> bool:
    return row["part"] in ("torch-eager", "torch-autocast", "torch-compile", "clam", "engines")


def print_floor(rows: Sequence[Row]) -> None:
    """What the measured ceilings would allow, if nothing else took time."""
    tile = next((row for row in rows if row["part"] == "cost" and "gflop" in row), None)
    found = {row["side"]: row for row in rows if row["part"] == "ceilings"}
    if tile is None:
        return
    limits = []
    for side, row in found.items():
        if "tflops" in row:
            limits.append(
                (side, f"{row['tflops']:.1f} TFLOP/s", 1e3 * row["tflops"] / tile["gflop"])
            )
        elif side.startswith("copy on"):
            rate = 1e3 * row["gb_per_s"] / tile["activation_mb"]
            limits.append((f"{side}: activations", f"{row['gb_per_s']:.0f} GB/s", rate))
        elif side.endswith("to the card"):
            rate = 1e3 * row["gb_per_s"] / tile["host_mb"]
            limits.append((f"{side}: tiles", f"{row['gb_per_s']:.1f} GB/s", rate))
    print(
        f"\nThe floor: {tile['gflop']:.2f} GFLOP, {tile['activation_mb']:.1f} MB of activations in "
        f"float16 and {tile['host_mb']:.2f} MB over the bus a tile\n"
    )
    lines = [[name, ceiling, f"{rate:,.1f}"] for name, ceiling, rate in limits]
    print_table(["ceiling", "measured", "tiles/s that it allows"], lines)


def print_slides(rows: Sequence[Row]) -> None:
    """Whole slides, with the bars."""
    lines = []
    for row in rows:
        if row["part"] not in ("decoding", "slide"):
            continue
        if "failed" in row:
            lines.append([row["side"], "", "not measured", "", row["failed"]])
            continue
        share, rate = row["encoder_busy_share"], row["tiles_per_second"]
        lines.append([row["side"], f"{row['tiles']:,}", f"{rate:,.1f}", f"{share:.1%}", ""])
        if "stages_s" in row:
            stages = ", ".join(f"{name} {s:.1f}" for name, s in row["stages_s"].items())
            lines[-1][-1] = f"{row['reader']}, {row['decode']}; seconds: {stages}"
    print("\nWhole slides: opening to report, or tiles to features\n")
    bars = (f"tiles/s (>= {SLIDE_BAR:,.0f})", f"encoder busy (>= {BUSY_BAR:.0%})")
    print_table(["side", "tiles", bars[0], bars[1], "how"], lines)


def print_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    typer.run(main)
