"""``pathgene-rt build``: the fastest engine and precision within the limits, on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleArgument,
    EngineOption,
    HardwareCompatibleOption,
    PrecisionOption,
    StripWeightsOption,
    ThreadsOption,
    VersionCompatibleOption,
    WorkspaceOption,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.errors import UsageError

if TYPE_CHECKING:
    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.engines.qualify.int8_calibration import Trial
    from pathgene_rt.options import EngineOptions

CALIBRATION_TILES = 400
"""Of all slides together: 300 to take ranges from and 100 to judge by."""


def build(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(help="Slides (files, patterns or folders) to calibrate INT8 on."),
    ] = None,
    workspace: WorkspaceOption = 0,
    version_compatible: VersionCompatibleOption = False,
    hardware_compatible: HardwareCompatibleOption = "none",
    strip_weights: StripWeightsOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try each engine and precision on BUNDLE's golden tiles; keep the fastest that is right.

    What is kept is what --precision auto means from then on for this bundle on this machine. With
    --calibrate, and --precision int8 or auto, the encoder is first quantised on tiles of these
    slides, which is kept if other tiles of them give the same features and predictions within the
    limits (exit code 6 if not). Takes minutes; needs the extra int8.

    TensorRT builds an engine for the encoder and each head, which takes minutes the first time;
    later commands find them. --batch is then the most tiles that a call takes.
    """
    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.engines.qualify.build import build as build_engines
    from pathgene_rt.options import EngineOptions, TensorRtOptions

    console = Console(json=json, quiet=quiet)
    options = EngineOptions(
        backend=engine,
        precision=precision,
        threads=threads,
        batch=batch,
        tensorrt=TensorRtOptions(
            workspace_mb=workspace,
            max_batch=batch,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            strip_weights=strip_weights,
        ),
    )
    with Bundle.open(bundle) as opened:
        if calibrate:
            _calibrate(opened, options, calibrate, console)
        with console.steps() as step:
            report = build_engines(opened, options, step, apart=True)
    rows = []
    for entry in report.candidates:
        verified, rate = entry.verification, entry.tiles_per_second
        result = "passed"
        if entry.precision and report.chosen.get(entry.backend) == entry.precision:
            first = entry.backend == next(iter(report.chosen))
            result = "chosen" if first else f"chosen with --engine {entry.backend}"
        moved = verified.probability if verified else None
        rows.append(
            [
                entry.backend,
                entry.precision or "",
                f"{verified.features.median:.5f}" if verified else "",
                f"{verified.features.maximum:.5f}" if verified else "",
                "" if moved is None else f"{moved:.5f}",
                "" if rate is None else f"{rate:.1f}",
                "" if entry.batch is None else f"{entry.batch} x {entry.in_flight}",
                entry.refused or result,
            ]
        )
    columns = [
        "engine",
        "precision",
        "e median",
        "e max",
        "probability",
        "tiles/s",
        "tiles x calls",
        "result",
    ]
    console.table("", columns, rows)
    console.emit(report.to_dict())
    for warning in report.warnings:
        console.warn(warning)
    report.require_one()


def _calibrate(bundle: Bundle, options: EngineOptions, names: list[str], console: Console) -> None:
    from pathgene_rt.engines.openvino.backend import NAME
    from pathgene_rt.engines.qualify.int8_calibration import SlideTiles, calibrate_int8
    from pathgene_rt.geometry import grid_coords
    from pathgene_rt.slides.find import find_slides
    from pathgene_rt.tiles.sample import sample_tiles

    if options.precision not in ("auto", "int8") or options.backend not in ("auto", NAME):
        raise UsageError(
            f"--calibrate makes INT8 for {NAME}, not {options.precision} for {options.backend}; "
            "use it with --precision int8"
        )
    paths = find_slides(names, recursive=True, told=console.note)
    share = -(-CALIBRATION_TILES // len(paths))
    slides = []
    for path in paths:
        console.note(f"reading up to {share} tiles of {path.name}")
        sample = sample_tiles(path, bundle.preprocess, share)
        coords = grid_coords(sample.xy, sample.span_px)
        slides.append(SlideTiles(sample.slide_id, sample.tiles, coords))
    kept = calibrate_int8(bundle, options, slides, console.note)
    console.note(f"int8 kept: {_figures(kept)}")


def _figures(kept: Trial) -> str:
    """What the limits are on, for the tiles that were held out."""
    found = kept.held_out
    moved = "" if found.probability is None else f", probabilities move by {found.probability:.4f}"
    features = f"e median {found.features.median:.3f}, max {found.features.maximum:.3f}"
    return f"{kept.recipe}; on held-out tiles {features}{moved}"
