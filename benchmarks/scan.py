"""Pushed tiles beside the same slide as a file: same predictor, same tiles, one run.

    python benchmarks/scan.py [SLIDE] [--bundle BUNDLE] [--precision bfloat16] [--rounds 3]

Without BUNDLE, CTransPath with seeded weights and no heads is exported first; rates do not depend
on the values of weights. Without SLIDE one is generated at 40x. The slide's pixels are
decoded before the clock starts, as a camera would have them, and pushed as fast as they are taken;
the file is opened, searched for tissue and decoded as always. The third path pushes the same from a
C program, where there is a gcc to build it. All end with the report. The paths take turns, so that
the drift of a shared machine falls on all.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from capi_path import CPath

from pathgene_rt import EngineOptions, Predictor, Report, open_slide
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import PrecisionChoice
from pathgene_rt.scan.stage import Stage
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.training.synthetic.slides import write_slide

BAR = 0.95
RETRY_S = 0.002
SIZE_PX = (11_264, 9_216)
MPP = 0.25


@dataclass(frozen=True)
class Run:
    """One slide through one path. ``busy`` pushes were refused; ``lag_s`` passed between the last
    push and the report."""

    path: str
    tiles: int
    seconds: float
    tiles_per_second: float
    encoder_busy_share: float
    busy: int = 0
    lag_s: float = 0.0


def main(
    slide: Annotated[Path | None, typer.Argument(help="A slide; else one is generated.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle; else one is exported.")] = None,
    precision: Annotated[PrecisionChoice, typer.Option()] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each path.")] = 3,
    stage_px: Annotated[int, typer.Option(help="Side of the rectangles pushed.")] = 1024,
    overlap_px: Annotated[int, typer.Option(help="By which they overlap.")] = 8,
) -> None:
    """Print one JSON line a run, then a table of ratios."""
    with tempfile.TemporaryDirectory() as folder:
        if slide is None:
            slide = Path(folder) / "generated.svs"
            write_slide(slide, SIZE_PX, mpp=MPP, seed=1)
        bundle = bundle or exported(Path(folder))
        stage = Stage(rate=1e9, tile_px=stage_px, overlap_px=overlap_px)
        with Predictor.open(bundle, EngineOptions(precision=precision)) as predictor:
            runs = measured(predictor, slide, stage, rounds, bundle, Path(folder))
    table(runs)


def measured(
    predictor: Predictor, slide: Path, stage: Stage, rounds: int, bundle: Path, work: Path
) -> list[Run]:
    with open_slide(slide) as source:
        info = source.info
        pixels = source.read((0, 0), 0, info.size_px)
    mpp = slide_mpp(info)
    places = list(stage.places(info.size_px))
    frames = [
        np.ascontiguousarray(pixels[y : y + height, x : x + width])
        for x, y, width, height in places
    ]
    corners = [(x, y) for x, y, _, _ in places]
    paths: dict[str, Callable[[], Run]] = {
        "file": lambda: from_file(predictor, slide),
        "push": lambda: pushed(predictor, mpp, info.size_px, frames, corners),
    }
    runs = []
    with ExitStack() as stack:
        if shutil.which("gcc") is not None:
            precision = predictor.options.precision
            c = stack.enter_context(CPath(work, bundle, precision, pixels, mpp, places))
            paths["c"] = lambda: from_c(c)
        for number in range(rounds):
            # Forwards, then backwards: none is always first.
            for name in list(paths)[:: 1 if number % 2 == 0 else -1]:
                run = paths[name]()
                print(json.dumps(asdict(run)), flush=True)
                runs.append(run)
    return runs


def from_file(predictor: Predictor, slide: Path) -> Run:
    began = time.perf_counter()
    report = predictor.predict(slide)
    return run_of("file", report, time.perf_counter() - began)


def pushed(
    predictor: Predictor,
    mpp: float,
    size_px: tuple[int, int],
    frames: list[UInt8Array],
    corners: list[tuple[int, int]],
) -> Run:
    busy = 0
    began = time.perf_counter()
    with predictor.open_scan(mpp, size_px) as session:
        for frame, (x, y) in zip(frames, corners, strict=True):
            while not session.push(frame, x, y):
                busy += 1
                time.sleep(RETRY_S)
        last = time.perf_counter()
        report = session.finish()
    now = time.perf_counter()
    return run_of("push", report, now - began, busy, now - last)


def from_c(program: CPath) -> Run:
    run = program.run()
    provenance = run.report["provenance"]
    tiles = provenance["tiles"]["count"]
    return Run(
        path="c",
        tiles=tiles,
        seconds=round(run.seconds, 3),
        tiles_per_second=round(tiles / run.seconds, 2),
        encoder_busy_share=round(provenance["encoder_busy_share"], 3),
        busy=run.busy,
        lag_s=round(run.lag_s, 3),
    )


def run_of(path: str, report: Report, seconds: float, busy: int = 0, lag_s: float = 0.0) -> Run:
    provenance = report.provenance
    return Run(
        path=path,
        tiles=provenance.tiles,
        seconds=round(seconds, 3),
        tiles_per_second=round(provenance.tiles / seconds, 2),
        encoder_busy_share=round(provenance.encoder_busy_share, 3),
        busy=busy,
        lag_s=round(lag_s, 3),
    )


def table(runs: list[Run]) -> None:
    rates = {
        name: median(run.tiles_per_second for run in runs if run.path == name)
        for name in dict.fromkeys(run.path for run in runs)
    }
    print(f"\n{runs[0].tiles} tiles; medians of {len(runs) // len(rates)} runs each\n")
    print("| path | tiles/s | of the path before | bar |")
    print("|---|---|---|---|")
    before = None
    for name, rate in rates.items():
        ratio = "" if before is None else f"{rate / before:.3f} x"
        print(f"| {name} | {rate:.1f} | {ratio} | {'' if before is None else f'{BAR} x'} |")
        before = rate


def exported(folder: Path) -> Path:
    """A bundle of CTransPath with seeded weights."""
    import torch

    from pathgene_rt.export.export_bundle import export_bundle
    from pathgene_rt.export.request import ExportRequest
    from pathgene_rt.training.encoders.ctranspath import CTransPath

    checkpoint, bundle = folder / "ctranspath.pth", folder / "encoder.pgrt"
    torch.save(CTransPath.seeded(1).state_dict(), checkpoint)
    export_bundle(ExportRequest(check_tensorrt=False, encoder=checkpoint, out=bundle, heads=()))
    return bundle


if __name__ == "__main__":
    typer.run(main)
