"""Every engine of ours, whole slides through them, and what a tile costs them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from gpu_bench import Bench, Row
from graph_cost import graph_cost

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.engines.qualify.replay import encode_tiles
from pathgene_rt.engines.qualify.tuning import measure_rate
from pathgene_rt.engines.registry import EngineFactory, load_backend
from pathgene_rt.errors import EngineError
from pathgene_rt.extraction.extract import Encoding, TileOrder, encode_slide
from pathgene_rt.extraction.prepare import prepare_slide
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.options import Precision
from pathgene_rt.streaming.encoder_service import EncoderService
from pathgene_rt.tiles.read_order import locality_order


def cost(bench: Bench) -> Iterator[Row]:
    """What one tile costs: operations, bytes over the bus, bytes of activations in float16.

    Fewer activations cannot be moved without fusing matrix products with each other.
    """
    with Bundle.open(Path(bench.settings.bundle)) as bundle:
        found = graph_cost(bundle.read(ENCODER_FILE))
        tile_px = bundle.preprocess.tile_px
    yield {
        "side": "one tile",
        "gflop": found.gflop,
        "host_mb": 1e-6 * tile_px * tile_px * 3,
        "activation_mb": 2e-6 * found.activations,
    }


def engines(bench: Bench) -> Iterator[Row]:
    """Every engine of ours in every precision, from bytes in host memory to features there."""
    tiles, reference, _ = bench.golden()
    with Bundle.open(Path(bench.settings.bundle)) as bundle:
        for name in bench.settings.engines:
            found = load_backend(name).probe()
            if not found.available:
                yield {"side": name, "failed": found.reason}
                continue
            for precision in found.precisions:
                side = f"{name} {precision}"
                for batch in bench.settings.batches:
                    try:
                        row = _engine_row(bench, bundle, name, precision, batch, tiles, reference)
                    except EngineError as error:
                        row = {"failed": str(error)}
                    yield {"side": side, "batch": batch, **row}


def _engine_row(
    bench: Bench,
    bundle: Bundle,
    name: str,
    precision: Precision,
    batch: int,
    tiles: UInt8Array,
    reference: Float32Array,
) -> Row:
    options = _options(bench, name, precision, batch)
    began = time.perf_counter()
    with EngineFactory(bundle, options).encoder() as engine:
        started_s = time.perf_counter() - began
        error = fidelity_error(encode_tiles(engine, tiles, batch), reference)
        rates = [
            measure_rate(engine, tiles, batch, on_gpu=True) for _ in range(bench.settings.rounds)
        ]
    return {
        "tiles_per_second": median(rates),
        "start_s": started_s,
        "e_median": error.median,
        "e_max": error.maximum,
    }


def fastest(precisions: Sequence[Precision]) -> Precision:
    """The most reduced of those that need no calibration."""
    return [precision for precision in precisions if precision != "int8"][-1]


def _options(bench: Bench, name: str, precision: Precision, batch: int) -> EngineOptions:
    cache = Path(bench.settings.cache)
    return EngineOptions(backend=name, precision=precision, batch=batch, cache_dir=cache)


def decoding(bench: Bench) -> Iterator[Row]:
    """The slide's tiles to features, decoded by the processor and by the card in turn."""
    name = next((one for one in bench.settings.engines if load_backend(one).probe().available), "")
    if not name:
        yield {"side": "decoding", "failed": "no engine to decode for"}
        return
    precision = fastest(load_backend(name).probe().precisions)
    options = _options(bench, name, precision, max(bench.settings.batches))
    with Bundle.open(Path(bench.settings.bundle)) as bundle:
        factory = EngineFactory(bundle, options)
        preprocess = bundle.preprocess
        with (
            factory.encoder() as engine,
            EncoderService(engine) as service,
            prepare_slide(Path(bench.settings.slide), preprocess, PredictOptions()) as prepared,
        ):
            source = prepared.slide.encoded_source(prepared.grid.level)
            why = "the engine or the slide's reader gives and takes pixels only"
            if engine.decoder is not None and source is not None:
                why = engine.decoder.refusal(source.level)
            order = TileOrder(locality_order(prepared.grid), factory.options.batch)
            for how, on_card in (("by the processor", False), ("on the GPU", True)):
                side = f"slide to features, {name} {precision}, decoded {how}"
                if on_card and why:
                    yield {"side": side, "failed": why}
                    continue
                bag = GrowingBag(bundle.feature_dim, len(prepared.grid))
                (stats,) = encode_slide(
                    prepared.slide,
                    prepared.grid,
                    [Encoding(service, bag, order)],
                    preprocess.reduction,
                    source=source if on_card else None,
                )
                yield {
                    "side": side,
                    "tiles": stats.tiles,
                    "tiles_per_second": stats.tiles_per_second,
                    "encoder_busy_share": stats.busy_share,
                }


def slide(bench: Bench) -> Iterator[Row]:
    """A whole slide, from opening it to the report: each engine, pixels decoded by the CPU."""
    for name in bench.settings.engines:
        found = load_backend(name).probe()
        if not found.available:
            yield {"side": f"slide, {name}", "failed": found.reason}
            continue
        yield from _slide_rows(bench, name, fastest(found.precisions))


def _slide_rows(bench: Bench, name: str, precision: Precision) -> Iterator[Row]:
    options = _options(bench, name, precision, max(bench.settings.batches))
    with Predictor.open(Path(bench.settings.bundle), options) as predictor:
        choices = {"decoded in full": PredictOptions(exact=True, heatmaps=False, geojson=False)}
        choices["as predict does"] = replace(choices["decoded in full"], exact=False)
        for how, chosen in choices.items():
            side = f"slide, {name} {precision}, {how}"
            try:
                for _ in range(2):  # the first finds out what predict finds out once a scanner
                    began = time.perf_counter()
                    report = predictor.predict(Path(bench.settings.slide), chosen)
                    seconds = time.perf_counter() - began
            except EngineError as error:
                yield {"side": side, "failed": str(error)}
                continue
            ran = report.provenance
            yield {
                "side": side,
                "tiles": ran.tiles,
                "tiles_per_second": ran.tiles / seconds,
                "encoder_busy_share": ran.encoder_busy_share,
                "reader": ran.reader,
                "decode": ran.decode,
                "stages_s": ran.seconds,
            }
