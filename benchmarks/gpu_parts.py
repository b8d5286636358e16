"""The parts of `gpu.py`, each run in a process of its own: what torch, the engines, a slide reach.

    python benchmarks/gpu_parts.py PART SETTINGS.json

Prints one JSON line a measurement. On a card every rate is timed with CUDA events around many calls
after a warm-up and is the median of several rounds; on a CPU (to try the parts) with the clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import numpy as np
import torch
from graph_cost import graph_cost

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle import ENCODER_FILE, Bundle
from pathgene_rt.encode import TileOrder, encode_slide
from pathgene_rt.engine import Precision
from pathgene_rt.engines.compare import fidelity_error
from pathgene_rt.engines.registry import EngineFactory, load_backend
from pathgene_rt.engines.replay import encode_tiles
from pathgene_rt.engines.tuning import measure_rate
from pathgene_rt.errors import EngineError
from pathgene_rt.export.reference import pillow_pixels
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.model_spec import Preprocess
from pathgene_rt.slide_work import prepared
from pathgene_rt.streaming.encoder_service import EncoderService
from pathgene_rt.tile_order import locality_order
from pathgene_rt.training.encoders.ctranspath import CTransPath

Row = dict[str, Any]

PRODUCT = 8192
COPY_BYTES = 1 << 30
HOST_BYTES = 256 << 20
LOADER_WORKERS = 8
"""CLAM's default."""


@dataclass(frozen=True)
class Settings:
    """What all parts are given. ``seconds`` is how long a round of a rate takes, about."""

    device: Literal["cuda", "cpu"]
    bundle: str
    slide: str
    cache: str
    batches: tuple[int, ...]
    engines: tuple[str, ...]
    tiles: int
    seed: int
    rounds: int
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Settings:
        found = json.loads(path.read_text())
        return cls(**{**found, **{name: tuple(found[name]) for name in ("batches", "engines")}})


class Bench:
    """Weights and golden tiles on the device, and one way to time them all."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)

    def rate(self, call: Callable[[], object], work: float) -> float:
        """``work`` a second, where each call does so much: median of rounds, after a warm-up."""
        for _ in range(3):
            once = self.seconds(call, 1)
        calls = max(1, round(self.settings.seconds / max(once, 1e-6)))
        found = [calls * work / self.seconds(call, calls) for _ in range(self.settings.rounds)]
        return median(found)

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Of ``calls`` calls, on the device's own clock where it has one."""
        if self.device.type == "cpu":
            began = time.perf_counter()
            for _ in range(calls):
                call()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def encoder(self) -> CTransPath:
        return CTransPath.seeded(self.settings.seed).eval().to(self.device)

    def golden(self) -> tuple[UInt8Array, Float32Array, Preprocess]:
        """Tiles, features that torch float32 gave them, and how pixels are prepared."""
        with Bundle.open(Path(self.settings.bundle)) as bundle:
            arrays = bundle.golden("encoder")
            return arrays["tiles"], arrays["features"], bundle.preprocess


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the card reaches in one large product, in one large copy, and over the bus."""
    side = PRODUCT if bench.device.type == "cuda" else 512
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32)):
        left, right = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        rate = bench.rate(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), 2e-12 * side**3)
        yield {"side": f"{name} product of {side} x {side}", "tflops": rate}
    size = COPY_BYTES if bench.device.type == "cuda" else 1 << 20
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    yield {
        "side": "copy on the device, read and written",
        "gb_per_s": bench.rate(lambda: target.copy_(source), 2e-9 * size),
    }
    if bench.device.type == "cuda":
        pinned = torch.empty(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
        there = torch.empty(HOST_BYTES, dtype=torch.uint8, device=bench.device)
        to_card = bench.rate(lambda: there.copy_(pinned, non_blocking=True), 1e-9 * HOST_BYTES)
        back = bench.rate(lambda: pinned.copy_(there, non_blocking=True), 1e-9 * HOST_BYTES)
        yield {"side": "pinned memory to the card", "gb_per_s": to_card}
        yield {"side": "the card to pinned memory", "gb_per_s": back}


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


def torch_eager(bench: Bench) -> Iterator[Row]:
    """As CLAM and TRIDENT run it: eager, float32; pixels ready on the device."""
    encoder = bench.encoder()
    yield from _torch_rates(bench, "torch eager float32", encoder, torch.float32)


def torch_autocast(bench: Bench) -> Iterator[Row]:
    """Eager under autocast to float16."""
    encoder = bench.encoder()
    cast_to = torch.autocast(bench.device.type, torch.float16)
    yield from _torch_rates(bench, "torch autocast float16", encoder, torch.float32, cast_to)


def torch_compile(bench: Bench) -> Iterator[Row]:
    """The weights in float16, compiled for each batch size."""
    compiled = cast(torch.nn.Module, torch.compile(bench.encoder().half(), dynamic=False))
    yield from _torch_rates(bench, "torch.compile float16", compiled, torch.float16)


def _torch_rates(
    bench: Bench, name: str, encoder: torch.nn.Module, dtype: torch.dtype, context: Any = None
) -> Iterator[Row]:
    tiles, reference, preprocess = bench.golden()
    pixels = torch.from_numpy(pillow_pixels(tiles, preprocess)).to(bench.device, dtype)
    around = context or nullcontext()
    with torch.inference_mode(), around:
        error = None
        for batch in bench.settings.batches:
            part = pixels[torch.arange(batch, device=bench.device) % len(pixels)]
            try:
                rate = bench.rate(lambda part=part: encoder(part), batch)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                yield {"side": name, "batch": batch, "failed": "out of GPU memory"}
                continue
            if error is None:
                count = min(batch, len(pixels))
                found = encoder(part)[:count].float().cpu().numpy()
                error = fidelity_error(found, reference[:count]) if count > 1 else None
            row = {"side": name, "batch": batch, "tiles_per_second": rate}
            yield row | ({} if error is None else {"e_median": error.median})


class _Tiles(torch.utils.data.Dataset[torch.Tensor]):
    """Pixels as CLAM's dataset makes them of a tile: Pillow's resize, scaled, normalised."""

    def __init__(self, tiles: UInt8Array, count: int, preprocess: Preprocess) -> None:
        self._tiles, self._count, self._preprocess = tiles, count, preprocess

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> torch.Tensor:
        tile = self._tiles[number % len(self._tiles)]
        return torch.from_numpy(pillow_pixels(tile[None], self._preprocess)[0])


def clam(bench: Bench) -> Iterator[Row]:
    """CLAM's loop from decoded tiles on: its transforms in loader processes, float32, to numpy."""
    tiles, _, preprocess = bench.golden()
    encoder, batch = bench.encoder(), max(bench.settings.batches)
    workers = LOADER_WORKERS if bench.device.type == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        _Tiles(tiles, bench.settings.tiles, preprocess),
        batch_size=batch,
        num_workers=workers,
        pin_memory=bench.device.type == "cuda",
    )
    with torch.inference_mode():
        rates = []
        for _ in range(2):  # the first warms up
            began = time.perf_counter()
            done = sum(
                len(encoder(part.to(bench.device, non_blocking=True)).cpu().numpy())
                for part in loader
            )
            rates.append(done / (time.perf_counter() - began))
    name = f"torch eager float32 with Pillow's transforms, {workers} loader processes"
    yield {"side": name, "batch": batch, "tiles_per_second": rates[-1]}


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
        rates = [measure_rate(engine, tiles, batch) for _ in range(bench.settings.rounds)]
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
            prepared(Path(bench.settings.slide), preprocess, PredictOptions()) as work,
        ):
            source = work.slide.stored(work.grid.level)
            why = "the engine or the slide's reader gives and takes pixels only"
            if engine.decoder is not None and source is not None:
                why = engine.decoder.refusal(source.level)
            features = np.empty((len(work.grid), bundle.feature_dim), np.float32)
            order = TileOrder(locality_order(work.grid), factory.options.batch)
            for how, on_card in (("by the processor", False), ("on the GPU", True)):
                side = f"slide to features, {name} {precision}, decoded {how}"
                if on_card and why:
                    yield {"side": side, "failed": why}
                    continue
                stats = encode_slide(
                    work.slide,
                    work.grid,
                    service,
                    preprocess.reduction,
                    features,
                    order,
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


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ceilings": ceilings,
    "cost": cost,
    "torch-eager": torch_eager,
    "torch-autocast": torch_autocast,
    "torch-compile": torch_compile,
    "clam": clam,
    "engines": engines,
    "decoding": decoding,
    "slide": slide,
}
"""By name, in the order in which they are run."""


if __name__ == "__main__":
    chosen = Settings.read(Path(sys.argv[2]))
    for measured in PARTS[sys.argv[1]](Bench(chosen)):
        print(json.dumps({"part": sys.argv[1], **measured}), flush=True)
