"""Tiles a second of the encoder alone: each engine and precision beside torch, and its ceiling.

    python benchmarks/encode.py [--slide SLIDE] [--bundle NAME.pgrt] [--calibrate SLIDES]

All sides are measured in turn, round after round, so that what else the machine does meanwhile
falls on all of them; figures are medians over the rounds. torch is what CLAM and TRIDENT run: the
encoder as published, eager, float32, on pixels that are resized and normalised already, at the best
of a few batches. A precision's ceiling is the best rate of large matrix products in it, in torch;
it is measured for those that the processor computes in natively, and shares of it count the
multiply-adds of the exported graph. INT8, where all but the MLPs stays in the next wider
precision, is compared with the ceiling of that. Without --bundle, an encoder
with seeded weights is exported. INT8 is measured if it was calibrated for the bundle on this
machine (`pathgene-rt build BUNDLE --precision int8 --calibrate ...`), or with --calibrate here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from graph_cost import graph_cost

from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.machine import cpu_features, cpu_name, usable_cpus
from pathgene_rt.engines.qualify.compare import Fidelity, fidelity_error
from pathgene_rt.engines.qualify.replay import encode_tiles
from pathgene_rt.engines.qualify.tuning import measure_rate, tune
from pathgene_rt.engines.registry import EngineFactory, load_backend
from pathgene_rt.errors import EngineError
from pathgene_rt.export.reference import pillow_pixels
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import EngineOptions, Precision
from pathgene_rt.training.encoders.ctranspath import CTransPath

SIDES: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
TORCH_BATCHES = (8, 16, 32)
PRODUCTS = ((2048, 2048, 2048), (4096, 4096, 1024), (3136, 768, 3072))
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions whose ceiling is measured, the widest first."""


@dataclass
class Side:
    """What is measured once a round: tiles, or GFLOP, a second, of products in ``precision``."""

    name: str
    precision: Precision
    measure: Callable[[], float]
    error: Fidelity | None = None
    found: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.found)


def main(
    slide: Annotated[
        Path | None, typer.Option(help="Tiles come from it; else they are generated.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle of the seeded encoder, exported before.")
    ] = None,
    calibrate: Annotated[list[str] | None, typer.Option(help="Slides to calibrate on.")] = None,
    rounds: int = 5,
    seed: int = 1,
) -> None:
    """Print a JSON line a side, then a table of ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = bundle or export(Path(folder), slide, seed)
        options = EngineOptions()
        if calibrate:
            options = replace(options, cache_dir=Path(folder) / "cache")
            calibrated(path, calibrate, options)
        with Bundle.open(path) as opened:
            run(opened, CTransPath.seeded(seed), options, rounds)


def export(folder: Path, slide: Path | None, seed: int) -> Path:
    checkpoint, bundle = folder / "ctranspath.pth", folder / "encoder.pgrt"
    torch.save(CTransPath.seeded(seed).state_dict(), checkpoint)
    command = [sys.executable, "-m", "pathgene_rt.cli", "export", "--quiet"]
    golden = [] if slide is None else ["--golden", str(slide)]
    subprocess.run(
        [*command, "--encoder", str(checkpoint), "--out", str(bundle), *golden], check=True
    )
    return bundle


def calibrated(bundle: Path, slides: list[str], options: EngineOptions) -> None:
    """Run the command as a user does; that it refuses (exit code 6) is a result as well."""
    command = [sys.executable, "-m", "pathgene_rt.cli", "build", str(bundle), "--quiet"]
    named = [part for slide in slides for part in ("--calibrate", slide)]
    environment = {**os.environ, "PATHGENE_RT_CACHE": str(options.cache_dir)}
    finished = subprocess.run(
        [*command, "--precision", "int8", *named],
        check=False,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    emit("calibration", {"exit_code": finished.returncode})


def run(bundle: Bundle, encoder: CTransPath, options: EngineOptions, rounds: int) -> None:
    golden = bundle.golden("encoder")
    tiles: UInt8Array = golden["tiles"]
    work = graph_cost(bundle.read(ENCODER_FILE)).gflop
    eager = torch_side(bundle, encoder, tiles)
    native = load_backend("openvino").probe().precisions
    dtypes = {name: dtype for name, dtype in DTYPES.items() if name in native}
    narrowest = list(dtypes)[-1]
    ceilings = [ceiling_side(precision, *shape) for precision in dtypes for shape in PRODUCTS]
    sides = [eager, *ceilings]
    engines: list[Engine] = []
    for backend, precision in SIDES:
        named = replace(options, backend=backend, precision=precision)
        try:
            tuned = tune(bundle, named)
            factory = EngineFactory(
                bundle, replace(named, batch=tuned.batch, in_flight=tuned.in_flight)
            )
            engine = factory.encoder()
        except EngineError as error:
            emit(f"{backend} {precision}", {"not measured": str(error)})
            continue
        engines.append(engine)
        features = encode_tiles(engine, tiles, tuned.batch)
        name = f"{backend} {precision}, batch {tuned.batch} x {tuned.in_flight}"
        measure = partial(measure_rate, engine, tiles, tuned.batch)
        products = precision if precision in dtypes else narrowest
        sides.append(Side(name, products, measure, fidelity_error(features, golden["features"])))
    for _ in range(rounds):
        for side in sides:
            side.found.append(side.measure())
    for engine in engines:
        engine.close()
    best = {
        precision: max(side.rate for side in ceilings if side.precision == precision)
        for precision in dtypes
    }
    table([side for side in sides if side not in ceilings], eager.rate, best, work)


def torch_side(bundle: Bundle, encoder: CTransPath, tiles: UInt8Array) -> Side:
    """Eager float32 at the batch that is fastest here."""
    pixels = torch.from_numpy(pillow_pixels(tiles, bundle.preprocess))

    def rate(batch: int) -> float:
        part = pixels[torch.arange(batch) % len(pixels)]
        with torch.inference_mode():
            began = time.perf_counter()
            encoder(part)
            return batch / (time.perf_counter() - began)

    rate(TORCH_BATCHES[0])
    best = max(TORCH_BATCHES, key=lambda batch: max(rate(batch), rate(batch)))
    return Side(f"torch eager float32, batch {best}", "float32", lambda: rate(best))


def ceiling_side(precision: Precision, rows: int, inner: int, columns: int) -> Side:
    """GFLOP/s of one large product on all cores."""
    dtype = DTYPES[precision]
    left = torch.randn(rows, inner, dtype=dtype)
    right = torch.randn(inner, columns, dtype=dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    work = 2e-9 * rows * inner * columns

    def rate() -> float:
        fastest = 0.0
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(left, right, out=out)
            fastest = max(fastest, work / (time.perf_counter() - began))
        return fastest

    rate()
    return Side(f"{precision} product {rows} x {inner} x {columns}", precision, rate)


def emit(name: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"side": name, **figures}), flush=True)


def table(sides: list[Side], eager: float, ceilings: dict[Precision, float], work: float) -> None:
    """``eager`` in tiles/s, ``ceilings`` in GFLOP/s by precision, ``work`` in GFLOP a tile."""
    for side in sides:
        error = side.error
        emit(
            side.name,
            {
                "tiles_per_second": side.rate,
                "rounds": side.found,
                "times_torch": side.rate / eager,
                "ceiling": side.precision,
                "share_of_ceiling": side.rate * work / ceilings[side.precision],
                "e_median": error and error.median,
                "e_max": error and error.maximum,
            },
        )
    shown = "; ".join(
        f"{precision} {ceiling:.0f} GFLOP/s = {ceiling / work:.1f} tiles/s"
        for precision, ceiling in ceilings.items()
    )
    print(f"\n{cpu_name()} ({', '.join(cpu_features())}), {usable_cpus()} cores")
    print(f"{work:.2f} GFLOP a tile; ceilings: {shown}\n")
    print("| side | tiles/s | x torch | of its ceiling | e median | e max |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        errors = (
            f"{side.error.median:.5f} | {side.error.maximum:.5f}" if side.error else "reference | "
        )
        print(
            f"| {side.name} | {side.rate:.1f} | {side.rate / eager:.2f} | "
            f"{side.rate * work / ceilings[side.precision]:.0%} of {side.precision} | {errors} |"
        )


if __name__ == "__main__":
    typer.run(main)
