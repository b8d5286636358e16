"""``pathgene-rt simulate-scan``: what a scanner with this bundle inside would see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    EngineOption,
    MppOption,
    MppOverrideOption,
    PrecisionOption,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.scan_view import scan_view
from pathgene_rt.errors import UsageError
from pathgene_rt.scan.stage import StageOrder

if TYPE_CHECKING:
    from pathgene_rt.heads.prediction import Prediction
    from pathgene_rt.scan.session import ScanProgress
    from pathgene_rt.scan.simulator import SimulatedScan

COLUMNS = ("session", "fields of view", "tiles/s", "late", "busy", "tiles", "lag", "predictions")


def simulate_scan(
    slide: Annotated[Path, typer.Argument(help="The slide to scan.", show_default=False)],
    rate: Annotated[str, typer.Option(help="Fields of view a second, e.g. 400tiles/s.")] = "400",
    order: Annotated[StageOrder, typer.Option(help="How the stage moves.")] = "serpentine",
    overlap: Annotated[int, typer.Option(help="Pixels by which fields of view overlap.")] = 8,
    repeat: Annotated[float, typer.Option(help="Share of fields of view that come twice.")] = 0.0,
    tile: Annotated[int, typer.Option(help="Side of a field of view in pixels.")] = 512,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Scanners at once.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the random order and the repetitions.")] = 0,
    bundle: BundleOption = None,
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    view: Annotated[
        bool, typer.Option("--view", help="Show the first session in the browser, until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Push a slide's pixels as its scanner would, and measure the lag.

    The lag is the time from the last push to the final report. Interim predictions are shown each
    second. A push that finds the encoder behind is busy and is tried again; "late" is how far the
    last push was behind the stage.
    """
    from pathgene_rt.options import EngineOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.scan import simulator as scan_simulator
    from pathgene_rt.scan.stage import Stage
    from pathgene_rt.slides import open_slide
    from pathgene_rt.slides.scale import slide_mpp

    console = Console(json=json, quiet=quiet)
    stage = Stage(
        rate=parse_rate(rate),
        order=order,
        tile_px=tile,
        overlap_px=overlap,
        repeat=repeat,
        seed=seed,
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with console.steps() as step:
        opened = Predictor.open(find_bundle(bundle), engines, progress=step)
    with (
        opened as predictor,
        open_slide(slide, mpp, mpp_override=mpp_override) as source,
        scan_view(slide, source, stage, console) if view else nullcontext() as page,
    ):
        info = source.info
        scale = slide_mpp(info)

        def scan(number: int) -> SimulatedScan:
            shown = page if number == 1 else None

            def show(seconds: float, progress: ScanProgress) -> None:
                console.note(f"session {number}, {seconds:.1f} s: {_standing(progress)}")
                if shown is not None:
                    shown.show(seconds, progress)

            out = shown.out if shown is not None else None
            with predictor.open_scan(scale, info.size_px, slide_id=info.slide_id) as session:
                scanned = scan_simulator.simulate_scan(session, source, stage, show, out)
            if shown is not None:
                shown.finish(scanned)
            return scanned

        with ThreadPoolExecutor(sessions, "scanner") as scanners:
            done = list(scanners.map(scan, range(1, sessions + 1)))
        console.table(
            f"{info.slide_id}, {info.size_px[0]} x {info.size_px[1]} px, {order}",
            COLUMNS,
            [_row(number, scan) for number, scan in enumerate(done, 1)],
        )
        console.say(predictor.bundle.manifest.intended_use)
        console.emit({"slide": info.slide_id, "sessions": [_document(scan) for scan in done]})


def parse_rate(text: str) -> float:
    """Fields of view a second, of "400" or "400tiles/s". Raises UsageError."""
    try:
        return float(text.removesuffix("tiles/s"))
    except ValueError as error:
        raise UsageError(f"--rate {text} is no rate; give e.g. 400tiles/s") from error


def _standing(progress: ScanProgress) -> str:
    counts = (
        f"{progress.pushes} pushed, {progress.busy} busy, {progress.encoded} tiles encoded, "
        f"{progress.waiting} waiting, {progress.deferred} deferred"
    )
    return "; ".join([counts, *(_answer(one) for one in progress.interim)])


def _answer(one: Prediction) -> str:
    if one.withheld:
        return f"{one.head} {one.call}"
    place = one.called[0] if one.called and one.zones is None else -1
    chance = f"{one.head} {one.call} {one.probabilities[place]:.2f}"
    if one.interval is None:
        return chance
    low, high = one.interval[place]
    return f"{chance} ({low:.2f} to {high:.2f})"


def _row(number: int, scan: SimulatedScan) -> list[str]:
    return [
        str(number),
        str(scan.pushes),
        f"{scan.pushes / scan.scan_s:.0f}",
        f"{scan.late_s:.2f} s",
        str(scan.busy),
        str(scan.report.provenance.tiles),
        f"{scan.lag_s:.2f} s",
        "; ".join(_answer(one) for one in scan.report.predictions),
    ]


def _document(scan: SimulatedScan) -> dict[str, Any]:
    return {
        "stage_tiles": scan.pushes,
        "busy": scan.busy,
        "scan_s": round(scan.scan_s, 3),
        "late_s": round(scan.late_s, 3),
        "lag_s": round(scan.lag_s, 3),
        "report": scan.report.to_dict(),
    }
