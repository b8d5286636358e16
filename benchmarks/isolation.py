"""Slides read in a process of their own, beside reading them here: throughput and start-up.

    PYTHONPATH=. python benchmarks/isolation.py BUNDLE SLIDE [--pairs 5] [--tiles 3600]

Both ways encode the same tiles with one open encoder, the first of a pair in turn. Throughput is of
the tiles, from the first read to the last feature; start-up is `open_slide`. Times are of the wall,
and of the processor: this process and the one that reads, as the kernel counts them (Linux), so
that other work on the machine tells less. Without BUNDLE's path there, a bundle whose encoder costs
next to nothing is written to it first.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer
from small_encoder import write_small_bundle

from pathgene_rt import EngineOptions, Predictor
from pathgene_rt.extraction.extract import Encoding, TileOrder, encode_slide, feature_dim
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.options import Isolate, TissueOptions
from pathgene_rt.slides import isolated_slide, open_slide, opening, registry
from pathgene_rt.slides.isolated_slide import IsolatedSlide
from pathgene_rt.slides.slide_wrapper import SlideWrapper
from pathgene_rt.tiles.grid import plan_grid
from pathgene_rt.tiles.read_order import locality_order
from pathgene_rt.tiles.tissue import find_tissue


def main(
    bundle: Path,
    slide: Path,
    pairs: int = 5,
    tiles: int = 3600,
    readers: int = 0,
    openslide: bool = False,
) -> None:
    """Print a JSON line a pair, and the medians. With --openslide that reads the slide in both."""
    if openslide:
        leave_openslide_alone()
    if not bundle.exists():
        write_small_bundle(bundle)
    rows = []
    with Predictor.open(bundle, EngineOptions()) as predictor:
        run(predictor, slide, "never", tiles, readers)
        for number in range(pairs):
            ways: list[Isolate] = ["never", "always"]
            found = {
                way: run(predictor, slide, way, tiles, readers)
                for way in (ways if number % 2 else ways[::-1])
            }
            here, there = found["never"], found["always"]
            row: dict[str, Any] = {"tiles": here["tiles"], "never": here, "always": there}
            row["ratio"] = {kind: here[kind] / there[kind] for kind in ("cpu_us", "wall_us")}
            row["start_up"] = {
                kind: there[kind] - here[kind] for kind in ("open_cpu_s", "open_wall_s")
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    for group in ("ratio", "start_up"):
        for kind in rows[0][group]:
            print(f"{group} {kind}: {median(row[group][kind] for row in rows):.3f}")


def run(
    predictor: Predictor, path: Path, isolate: Isolate, tiles: int, readers: int
) -> dict[str, float]:
    """Microseconds a tile, seconds to open."""
    preprocess, service = predictor.bundle.preprocess, predictor.service
    began = time.perf_counter(), time.process_time()
    with open_slide(path, isolate=isolate) as slide:
        reader = reader_of(slide)
        opened = time.perf_counter() - began[0], time.process_time() - began[1] + cpu_s(reader)
        tissue = find_tissue(slide, TissueOptions())[0]
        grid = plan_grid(slide.info, preprocess, tissue, TissueOptions())
        rows = locality_order(grid)[:tiles]
        bag = GrowingBag(feature_dim(service.engine.spec), len(grid))
        order = TileOrder(np.asarray(rows), predictor.options.batch)
        wall, cpu = time.perf_counter(), time.process_time() + cpu_s(reader)
        encodings = [Encoding(service, bag, order)]
        encode_slide(slide, grid, encodings, preprocess.reduction, readers=readers)
        cpu = time.process_time() + cpu_s(reader) - cpu
        wall = time.perf_counter() - wall
    return {
        "tiles": len(rows),
        "cpu_us": 1e6 * cpu / len(rows),
        "wall_us": 1e6 * wall / len(rows),
        "open_wall_s": opened[0],
        "open_cpu_s": opened[1],
    }


def leave_openslide_alone() -> None:
    """Here and in the processes that read, as if no other reader were there."""
    opening.BUILT_IN_READERS = only_openslide()

    def command(module: str, *arguments: str) -> list[str]:
        source = (
            f"from {module} import main; from pathgene_rt.slides import opening, registry; "
            "opening.BUILT_IN_READERS = registry.BUILT_IN_READERS[-1:]; main()"
        )
        return [sys.executable, "-P", "-c", source, *arguments]

    isolated_slide.module_command = command


def only_openslide() -> tuple[registry.SlideReader, ...]:
    found = registry.BUILT_IN_READERS[-1:]
    assert found[0].name == "openslide"
    return found


def reader_of(slide: object) -> int | None:
    """The process that reads ``slide``, None if it is this one."""
    while isinstance(slide, SlideWrapper):
        slide = slide._slide
    return slide._process._process.pid if isinstance(slide, IsolatedSlide) else None


def cpu_s(pid: int | None) -> float:
    """Seconds of the processor of all threads of a process that are there."""
    if pid is None:
        return 0.0
    tasks = Path(f"/proc/{pid}/task")
    spent = [int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()]
    return sum(spent) / 1e9


if __name__ == "__main__":
    typer.run(main)
