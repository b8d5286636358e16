"""How long each stage takes here: reading, decoding, copying, the encoder, the heads."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from statistics import median

import numpy as np

from pathgene_rt.acceptance.workbench import Check, Finding, NotRunError, Workbench
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.qualify.tuning import measure_rate
from pathgene_rt.extraction.prepare import PreparedSlide, prepare_slide
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.options import PredictOptions
from pathgene_rt.tiles.grid import read_tile

ROUNDS = 3
BAG_TILES = (1024, 10_240)


def decode_on_cpu(bench: Workbench) -> Finding:
    """Tiles a second from the slide's file to pixels, on one thread and on all; reading alone."""
    reduction, figures = bench.bundle.preprocess.reduction, {}

    def decode(prepared: PreparedSlide, xy: tuple[int, int]) -> None:
        side = prepared.grid.tile_px
        read_tile(prepared.slide, prepared.grid, xy, reduction, np.empty((side, side, 3), np.uint8))

    for threads in sorted({1, usable_cpus()}):
        # Opened each time, and no pass before: what was decoded is kept for a while.
        with _opened(bench) as prepared, ThreadPoolExecutor(threads) as pool:
            corners = [(int(x), int(y)) for x, y in prepared.grid.xy]
            began = time.perf_counter()
            list(pool.map(partial(decode, prepared), corners))
            figures[f"tiles/s, {threads} threads"] = len(corners) / (time.perf_counter() - began)
    with _opened(bench) as prepared:
        reader, source = prepared.slide.reader, prepared.slide.encoded_source(prepared.grid.level)
        if source is not None:
            seconds = seconds_of(
                lambda: [source.region(xy, prepared.grid.read_px) for xy in corners]
            )
            figures["read only tiles/s"] = len(corners) / seconds
    return Finding(f"{reader}: {_listed(figures)}", figures)


def _opened(bench: Workbench) -> AbstractContextManager[PreparedSlide]:
    return prepare_slide(bench.job.slide, bench.bundle.preprocess, PredictOptions(exact=True))


def encoder_rate(bench: Workbench) -> Finding:
    """Tiles a second of the encoder alone, pixels at hand, and how long one batch takes."""
    factory = bench.factory()
    batch = factory.options.batch
    with factory.encoder() as encoder:
        rate = median(
            measure_rate(encoder, bench.tiles, batch, on_gpu=bench.job.gpu) for _ in range(ROUNDS)
        )
        name = encoder.spec.inputs[0].name
        tiles = np.ascontiguousarray(np.resize(bench.tiles, (batch, *bench.tiles.shape[1:])))

        def alone() -> None:
            encoder.submit({name: tiles})
            encoder.result()

        one_ms = 1000 * seconds_of(alone)
    figures = {"tiles/s": rate, "batch": batch, "one batch ms": one_ms}
    return Finding(f"{rate:.0f} tiles/s in batches of {batch}; one takes {one_ms:.2f} ms", figures)


def repeated_shapes(bench: Workbench) -> Finding:
    """What a batch as large as the last saves: that is when engines that can use CUDA graphs."""
    small = 4  # where starting the kernels takes longer than they do
    with bench.factory(batch=small).encoder() as encoder:
        name = encoder.spec.inputs[0].name
        parts = [np.ascontiguousarray(bench.tiles[:count]) for count in (small, small - 1)]

        def calls(same: bool) -> float:
            began = time.perf_counter()
            for number in range(_CALLS):
                encoder.submit({name: parts[0 if same else number % 2]})
                encoder.result()
            return 1000 * (time.perf_counter() - began) / _CALLS

        calls(True)
        changing = median(calls(False) for _ in range(ROUNDS))
        same = median(calls(True) for _ in range(ROUNDS))
        warnings = encoder.warnings
    figures = {"same size ms": same, "changing size ms": changing}
    words = f"a batch of {small} takes {same:.2f} ms, {changing:.2f} ms if sizes change each time"
    return Finding("; ".join((words, *warnings)), figures)


_CALLS = 10


def heads_time(bench: Workbench) -> Finding:
    """Milliseconds of each head, for a biopsy and for a resection."""
    if not bench.bundle.heads:
        raise NotRunError("the bundle has no heads")
    figures = {}
    with HeadPanel(bench.bundle, bench.factory()) as panel:
        for n in BAG_TILES:
            bag = bench.bag(n)
            for head in bench.bundle.heads:
                seconds = seconds_of(partial(panel.run, [head], bag))
                figures[f"{head.name} {n} tiles ms"] = 1000 * seconds
    return Finding(_listed(figures), figures)


def slide_stages(bench: Workbench) -> Finding:
    """Seconds of each stage of one prediction, engines loaded, decoded as `predict` finds best."""
    with bench.predictor() as predictor:
        for _ in range(2):  # the first finds it out
            ran = predictor.predict(bench.job.slide).provenance
    figures = {f"{stage} s": seconds for stage, seconds in ran.seconds.items()}
    figures |= {"tiles/s": ran.tiles_per_second, "encoder busy share": ran.encoder_busy_share}
    return Finding(f"{ran.tiles} tiles, decoded {ran.decode}: {_listed(figures)}", figures)


def seconds_of(action: Callable[[], object]) -> float:
    """Median seconds of ``action``, after one that warms up."""
    action()
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return median(found)


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


TIMING_CHECKS = (
    Check("time: decode on the CPU", "how fast tiles come", decode_on_cpu, timing=True),
    Check("time: encoder", "how fast the encoder is alone", encoder_rate, timing=True),
    Check("time: repeated shapes", "what CUDA graphs save", repeated_shapes, timing=True),
    Check("time: heads", "what heads cost", heads_time, 600.0, timing=True),
    Check("time: slide", "where the time of a slide goes", slide_stages, 900.0, timing=True),
)
