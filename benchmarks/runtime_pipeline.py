"""This runtime on one slide in a process of its own, as a user runs it, beside its encoder alone.

    python benchmarks/runtime_pipeline.py SLIDE BUNDLE OUT --precision bfloat16 --cache FOLDER

OUT is a folder for the report and the features. Each round is one `predict`, from opening the slide
to the last byte of the features file; before the first and after every round the same engine
encodes tiles that lie in memory, so that a machine whose speed drifts does so under both.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Annotated, Any, cast

import numpy as np
import typer

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.engines.engine import Engine
from pathgene_rt.options import PrecisionChoice
from pathgene_rt.report.report import Report

BEFORE_ENCODING = ("open", "tissue_and_grid")
"""Stages of a report that pass before the first batch is awaited."""


def main(
    slide: Path,
    bundle: Path,
    out: Path,
    precision: str = "auto",
    cache: Annotated[Path | None, typer.Option(help="What was found out before.")] = None,
    rounds: int = 2,
    encoder_s: Annotated[float, typer.Option(help="Seconds of the encoder alone; 0: none.")] = 4.0,
) -> None:
    """Print one JSON object: ``rounds`` and what holds for all of them."""
    began = perf_counter()
    options = EngineOptions(precision=cast(PrecisionChoice, precision), cache_dir=cache)
    with Predictor.open(bundle, options) as predictor:
        start_s = perf_counter() - began
        engine, batch = predictor.service.engine, predictor.options.batch
        tile_px = predictor.bundle.preprocess.tile_px
        alone = [encoder_alone(engine, batch, tile_px, encoder_s)]
        done = []
        for _ in range(rounds):
            row = one_round(predictor, slide, out)
            alone.append(encoder_alone(engine, batch, tile_px, encoder_s))
            row["encoder_alone"] = mean(alone[-2:])
            done.append(row)
        info = engine.info
    assert "torch" not in sys.modules
    about = {"start_s": start_s, "peak_rss_mb": peak_rss_mb(), "batch": batch}
    engine_name = f"{info.backend} {info.precision}, {info.threads} threads"
    print(json.dumps({**about, "engine": engine_name, "rounds": done}))


def one_round(predictor: Predictor, slide: Path, out: Path) -> dict[str, Any]:
    """Rates in tiles per second: ``whole`` from the call to its return, ``streaming`` between the
    first batch and the last."""
    began = perf_counter()
    options = PredictOptions(features=True, heatmaps=False, geojson=False)
    report = predictor.predict(slide, options, out=out)
    seconds = perf_counter() - began
    ran = report.provenance
    return {
        "seconds": seconds,
        "tiles": ran.tiles,
        "whole": ran.tiles / seconds,
        "streaming": ran.tiles_per_second,
        "busy_share": ran.encoder_busy_share,
        "first_batch_s": first_batch_s(report),
        "stages_s": ran.seconds,
        "reader": ran.reader,
        "decode": ran.decode,
    }


def first_batch_s(report: Report) -> float:
    """From the call of `predict` until its first batch was given to the encoder."""
    seconds = report.provenance.seconds
    return sum(seconds[stage] for stage in BEFORE_ENCODING) + seconds["first_batch"]


def encoder_alone(engine: Engine, batch: int, tile_px: int, seconds: float) -> float:
    """Tiles per second of ``engine`` when it always has as many batches as it takes.

    Nothing else may use it meanwhile. 0 if ``seconds`` is 0.
    """
    if not seconds:
        return 0.0
    name, shape = engine.spec.inputs[0].name, (batch, tile_px, tile_px, 3)
    rng = np.random.default_rng(0)
    buffers = deque(engine.input_buffer(name, shape) for _ in range(engine.in_flight))
    for buffer in buffers:
        buffer[:] = rng.integers(256, size=shape, dtype=np.uint8)
        engine.submit({name: buffer})
    engine.result()
    began, done = perf_counter(), 0
    while perf_counter() - began < seconds:
        engine.submit({name: buffers[0]})
        buffers.rotate(-1)
        engine.result()
        done += batch
    rate = done / (perf_counter() - began)
    for _ in range(engine.in_flight - 1):
        engine.result()
    return rate


def peak_rss_mb() -> float:
    """Of this process alone. Linux counts the parent's memory into ``ru_maxrss`` of a child."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    typer.run(main)
