"""How quick the viewer is: first view, squares of the slide, panning under 200,000 tiles.

    python -m benchmarks.view [--side 60000] [--tiles 200000] [--keep FOLDER]

Needs the extras "view" and "dev" and a Chromium. A slide of SIDE x SIDE pixels and a report with
TILES tiles of two heads are generated (KEEP keeps them for the next time), and `pathgene-rt view`
serves them to a headless Chromium without a GPU. Bars: first view under 1 s, squares under 100 ms
(95th percentile, warm), no frame of panning over 50 ms, under 1 MB of page besides the squares.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import typer
from playwright.sync_api import Browser, Page, sync_playwright

from pathgene_rt.report.geojson import write_geojson
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support.view_results import write_result
from tests.view.browser import ARGUMENTS, CHROMIUM, viewer_process

PAN_STEPS = 240
STEP_S = 1 / 60
FRAME_MS = 50.0
ROUNDS = 5


def main(
    side: Annotated[int, typer.Option(help="Pixels of the slide.")] = 60_000,
    tiles: Annotated[int, typer.Option(help="Tiles of the report.")] = 200_000,
    keep: Annotated[Path | None, typer.Option(help="Keep what is generated here.")] = None,
) -> None:
    """Generate, serve, measure, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        predictions, slides = _generated(folder, side, tiles)
        with (
            viewer_process(predictions, "--slides", str(slides), "--language", "en") as address,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            _measure_first_view(browser, address)
            _measure_squares(address)
            _measure_panning(browser, address, Path(temporary))
            browser.close()


def _generated(folder: Path, side: int, tiles: int) -> tuple[Path, Path]:
    """(results, slides): one of each, unless they are there already."""
    slide = folder / "slides" / "large.svs"
    result = folder / "predictions" / "large"
    slide.parent.mkdir(parents=True, exist_ok=True)
    if not slide.is_file():
        write_slide(slide, (side, side), tissue_share=0.6)
    if not result.is_dir():
        write_result(result, slide)
        columns = math.isqrt(tiles)
        span = side // columns
        place = np.arange(columns * (tiles // columns))
        xy = np.stack([place % columns, place // columns], axis=1).astype(np.int32) * span
        rng = np.random.Generator(np.random.PCG64(0))
        measurements = {}
        for head in ("egfr", "tp53"):
            weights = rng.random(len(xy), dtype=np.float32)
            measurements[f"{head} attention percentile"] = 100 * weights
            measurements[f"{head} attention"] = weights / weights.sum()
        geojson = result / "attention.geojson"
        write_geojson(geojson, "large", xy, float(span), measurements, size_px=(side, side))
        print(
            f"{slide.stat().st_size / 1e6:.0f} MB of slide, {len(xy)} tiles, "
            f"{geojson.stat().st_size / 1e6:.0f} MB of GeoJSON"
        )
    return result.parent, slide.parent


def _measure_first_view(browser: Browser, address: str) -> None:
    """From the address to the list, and from the slide's link to the slide and to its overlay."""
    for number in range(ROUNDS):
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        weights: dict[str, int] = {}
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("tbody th a")
        listed = time.perf_counter() - began
        page.close()
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("response", lambda answer, weights=weights: _weigh(answer, weights))
        began = time.perf_counter()
        page.goto(f"{address}#/large")
        _until(page, "v && v.world.getItemCount() && v.world.getItemAt(0).lastDrawn.length > 0")
        shown = time.perf_counter() - began
        _until(page, "v.world.getItemAt(0).getFullyLoaded()")
        complete = time.perf_counter() - began
        page.wait_for_selector("button.tile")
        overlaid = time.perf_counter() - began
        print(
            f"first view {number + 1}: list {listed:.2f} s; slide first pixels {shown:.2f} s, "
            f"all squares {complete:.2f} s, overlay and tiles {overlaid:.2f} s"
        )
        page.close()
    own = weights["page and code"] + weights["answers"]
    print(
        f"page: {own / 1e3:.0f} kB besides squares and tiles; "
        + ", ".join(f"{name} {size / 1e3:.0f}" for name, size in sorted(weights.items()))
    )


def _weigh(answer: Any, weights: dict[str, int]) -> None:
    path = urlsplit(answer.url).path
    kind = "page and code" if path.startswith("/static/") or path == "/" else "answers"
    if "/tiles/" in path or path.endswith("/region"):
        kind = "squares"
    elif path.endswith("/layer"):
        kind = "layer of tiles"
    size = int(answer.headers.get("content-length", 0))
    weights[kind] = weights.get(kind, 0) + size


def _measure_squares(address: str) -> None:
    """Random squares of all levels by one client, none asked for twice, after a warm-up."""
    with urlopen(f"{address}api/results/large/slide") as answer:
        slide = json.load(answer)
    rng = random.Random(0)
    took: dict[int, list[float]] = {}
    for number in range(420):
        level = slide["top_level"] - rng.randrange(7)
        across = math.ceil(
            slide["size_px"][0] / 2 ** (slide["top_level"] - level) / slide["tile_px"]
        )
        column, row = rng.randrange(across), rng.randrange(across)
        began = time.perf_counter()
        url = f"{address}api/results/large/tiles/{level}/{column}/{row}?v={slide['identity']}"
        with urlopen(url) as answer:
            answer.read()
        if number >= 20:
            took.setdefault(slide["top_level"] - level, []).append(time.perf_counter() - began)
    every = np.array([seconds for one in took.values() for seconds in one])
    print(
        f"squares of {slide['tile_px']} px: median {1e3 * np.median(every):.1f} ms, "
        f"p95 {1e3 * np.quantile(every, 0.95):.1f} ms, max {1e3 * every.max():.1f} ms; p95 by "
        "downsample "
        + ", ".join(
            f"{2**step}: {1e3 * np.quantile(one, 0.95):.0f}" for step, one in sorted(took.items())
        )
    )


def _measure_panning(browser: Browser, address: str, folder: Path) -> None:
    """Drag over the slide for four seconds, at three magnifications; frames by Chromium's trace."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    for scale in (60, 16, 4):
        page.goto(f"{address}#/large?x=30000&y=30000&scale={scale}")
        page.reload()
        page.wait_for_selector("button.tile")
        _until(page, "v.world.getItemAt(0).getFullyLoaded()")
        page.mouse.move(700, 500)
        trace = folder / f"trace-{scale}.json"
        browser.start_tracing(
            page=page,
            path=trace,
            categories=[
                "cc",
                "benchmark",
                "toplevel",
                "devtools.timeline",
                "disabled-by-default-devtools.timeline",
                "viz",
                "blink.user_timing",
            ],
        )
        page.mouse.down()
        page.mouse.move(701, 500)
        page.evaluate("performance.mark('pan begins')")
        began = time.perf_counter()
        for step in range(PAN_STEPS):
            turn = 2 * math.pi * step / PAN_STEPS
            page.mouse.move(700 + 250 * math.sin(2 * turn), 500 + 200 * math.sin(3 * turn))
            time.sleep(max(0.0, began + (step + 1) * STEP_S - time.perf_counter()))
        page.evaluate("performance.mark('pan ends')")
        page.mouse.up()
        browser.stop_tracing()
        _print_frames(scale, json.loads(trace.read_text())["traceEvents"])
    page.close()


def _print_frames(scale: int, events: list[dict[str, Any]]) -> None:
    """Intervals between frames drawn while the mouse moves, and the longest task of the page's main
    thread: its time on a processor tells the page's own work from waiting for one on a machine that
    is busy."""
    begins, ends = (
        next(one["ts"] for one in events if one["name"] == name)
        for name in ("pan begins", "pan ends")
    )
    events = [one for one in events if one["ph"] == "M" or begins <= one["ts"] <= ends]
    names = {
        (one["pid"], one["tid"]): one["args"]["name"]
        for one in events
        if one["name"] == "thread_name"
    }
    drawn = sorted(one["ts"] for one in events if one["name"] == "Display::DrawAndSwap")
    steps = np.diff(np.array(drawn)) / 1e3
    steps = steps[steps > 1.0]
    tasks = [
        one
        for one in events
        if one["name"] in ("RunTask", "ThreadControllerImpl::RunTask")
        and names.get((one["pid"], one["tid"])) == "CrRendererMain"
    ]
    wall, own = (max(one.get(key, 0) / 1e3 for one in tasks) for key in ("dur", "tdur"))
    print(
        f"panning at {scale} px a pixel: {len(steps)} frames, median {np.median(steps):.1f} ms, "
        f"p95 {np.quantile(steps, 0.95):.1f}, max {steps.max():.1f}; over {FRAME_MS:.0f} ms: "
        f"{int((steps > FRAME_MS).sum())}; longest task of the page {wall:.1f} ms, of which "
        f"{own:.1f} on a processor"
    )


def _until(page: Page, condition: str) -> None:
    expression = (
        "(() => { const v = OpenSeadragon.getViewer(document.querySelector('.stage') ?? '');"
        f" return Boolean({condition}) }})()"
    )
    while not page.evaluate(f"typeof OpenSeadragon === 'function' && {expression}"):
        page.wait_for_timeout(10)


if __name__ == "__main__":
    typer.run(main)
