"""``pathgene-rt build``: the fastest engine and precision within the limits, on this machine."""

from __future__ import annotations

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleArgument,
    EngineOption,
    PrecisionOption,
    ThreadsOption,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption


def build(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 16,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Try each engine and precision on BUNDLE's golden tiles; keep the fastest that is right.

    What is kept is what --precision auto means from then on for this bundle on this machine.
    """
    from pathgene_rt.bundle import Bundle
    from pathgene_rt.engines.build import build as build_engines
    from pathgene_rt.options import EngineOptions

    console = Console(json=json, quiet=quiet)
    options = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with Bundle.open(bundle) as opened:
        report = build_engines(opened, options, console.note)
    rows = []
    for entry in report.candidates:
        verified, rate = entry.verification, entry.tiles_per_second
        result = "passed"
        if report.chosen.get(entry.backend) == entry.precision:
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
                entry.refused or result,
            ]
        )
    columns = ["engine", "precision", "e median", "e max", "probability", "tiles/s", "result"]
    console.table("", columns, rows)
    console.emit(report.to_dict())
    for warning in report.warnings:
        console.warn(warning)
    report.require_one()
