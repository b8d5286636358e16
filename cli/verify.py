"""``pathgene-rt verify``: the bundle's golden outputs against this machine's engine."""

from __future__ import annotations

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleArgument,
    EngineOption,
    PrecisionOption,
    ThreadsOption,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption


def verify(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Replay BUNDLE's golden tiles and bags on the engine that predict would use here."""
    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.engines.qualify.build import verify as replay_goldens
    from pathgene_rt.engines.qualify.replay import WORST_TILE
    from pathgene_rt.options import EngineOptions

    console = Console(json=json, quiet=quiet)
    options = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with Bundle.open(bundle) as opened:
        found, notes = replay_goldens(opened, options)
    for note in notes:
        console.note(note)
    limits, features = found.limits, found.features
    typical, worst = limits.features, limits.features * WORST_TILE
    rows = [
        ["encoder", "fidelity error, median tile", f"{features.median:.6f}", f"{typical:g}"],
        ["encoder", "fidelity error, worst tile", f"{features.maximum:.6f}", f"{worst:g}"],
    ]
    for head in found.heads:
        for what, moved, limit in (
            ("probability, golden features", head.golden_features, head.limit),
            ("probability, own features", head.own_features, limits.probabilities),
        ):
            if moved is not None:
                rows.append([head.name, what, f"{moved:.6f}", f"{limit}"])
    title = f"{found.engine.backend} {found.engine.version}, {found.engine.precision}"
    console.table(title, ["model", "difference from the golden one", "found", "limit"], rows)
    console.emit({**found.to_dict(), "notes": list(notes)})
    found.require_passed()
    console.say("Within the limits.")
