"""What `scaling.py` measures in processes of their own: without torch, as a user runs it.

python benchmarks/scaling_run.py one BUNDLE SLIDE OUT
python benchmarks/scaling_run.py together BUNDLE SLIDE SLIDE
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Annotated, cast

import numpy as np
import typer
from runtime_pipeline import peak_rss_mb

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.options import PrecisionChoice

Precision = Annotated[str, typer.Option(help="Of the encoder.")]

app = typer.Typer()


@app.command()
def one(bundle: Path, slide: Path, out: Path, precision: Precision = "float32") -> None:
    """Predict ``slide`` with everything that `predict` can write; print one JSON object."""
    with opened(bundle, precision) as predictor:
        before = peak_rss_mb()
        began = perf_counter()
        report = predictor.predict(slide, PredictOptions(features=True), out=out)
        seconds = perf_counter() - began
    ran = report.provenance
    width = predictor.bundle.encoder.feature_dim
    assert width is not None
    emit(
        tiles=ran.tiles,
        seconds=seconds,
        stages_s=ran.seconds,
        tiles_per_second=ran.tiles_per_second,
        busy_share=ran.encoder_busy_share,
        bag_mb=ran.tiles * width * 4 / 2**20,
        rss_with_engine_mb=before,
        peak_rss_mb=peak_rss_mb(),
        engine=f"{ran.encoder.backend} {ran.encoder.precision}",
        reader=ran.reader,
    )


@app.command()
def together(
    bundle: Path, slides: list[Path], rounds: int = 2, precision: Precision = "float32"
) -> None:
    """Extract ``slides`` one after the other, then all at once on the same engine, and again.

    One JSON object: seconds of each round, and how far any feature of the two ways differs.
    """
    with opened(bundle, precision) as predictor, ThreadPoolExecutor(len(slides)) as pool:

        def extract(slide: Path) -> FeatureBag:
            return predictor.extract(slide)[0]

        bags = {True: [extract(slide) for slide in slides]}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * rounds):
            at_once = number % 2 == 1
            began = perf_counter()
            bags[at_once] = list((pool.map if at_once else map)(extract, slides))
            seconds[at_once].append(perf_counter() - began)
    pairs = zip(bags[False], bags[True], strict=True)
    emit(
        tiles=[len(bag) for bag in bags[False]],
        after_each_other_s=seconds[False],
        at_once_s=seconds[True],
        difference=max(float(np.abs(a.features - b.features).max()) for a, b in pairs),
    )


def opened(bundle: Path, precision: str) -> Predictor:
    return Predictor.open(bundle, EngineOptions(precision=cast(PrecisionChoice, precision)))


def emit(**figures: object) -> None:
    assert "torch" not in sys.modules
    print(json.dumps(figures))


if __name__ == "__main__":
    app()
