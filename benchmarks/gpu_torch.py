"""The card by itself, and torch on it as CLAM and TRIDENT run it and as fast as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from gpu_bench import Bench, Row

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.export.reference import pillow_pixels
from pathgene_rt.geometry import UInt8Array

PRODUCT = 8192
COPY_BYTES = 1 << 30
HOST_BYTES = 256 << 20
LOADER_WORKERS = 8
"""CLAM's default."""


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the card reaches in one large product, in one large copy, and over the bus."""
    side = PRODUCT if bench.device.type == "cuda" else 512
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32)):
        left, right = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        rate = bench.rate(partial(torch.mm, left, right, out=out), 2e-12 * side**3)
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
                rate = bench.rate(partial(encoder, part), batch)
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
