"""What only a card can show: no fallback unseen, a card that others have filled, copies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pathgene_rt.acceptance.timing_checks import seconds_of
from pathgene_rt.acceptance.workbench import (
    Check,
    CheckFailedError,
    Finding,
    NotRunError,
    Workbench,
)
from pathgene_rt.engines.cuda.device import CudaDevice, DeviceMemory
from pathgene_rt.engines.cuda.driver import cuda_devices
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.open_device import open_device
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.engines.qualify.replay import encode_tiles
from pathgene_rt.errors import EngineError, EngineUnavailableError
from pathgene_rt.extraction.prepare import prepare_slide
from pathgene_rt.extraction.scaled_decode import DECODE_LIMITS
from pathgene_rt.options import PredictOptions
from pathgene_rt.slides.encoded_region import EncodedBatch
from pathgene_rt.tiles.grid import read_tile

HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}
"""As if there were no card."""

COPY_BYTES = 64 << 20
FILL_STEP = 64 << 20
LEFT_SHARE = 0.6
"""Of what an engine takes for itself: its weights, and some but not all of what a batch needs."""


def hidden_card(bench: Workbench) -> Finding:
    """Without the card the engine is refused by name, and left out by `auto` with a reason."""
    _require_gpu(bench)
    target = bench.job.target
    named = _verify(bench, "--engine", target.engine, "--precision", target.precision)
    if named.returncode != EngineUnavailableError.exit_code:
        raise CheckFailedError(
            f"with the card hidden, --engine {target.engine} ended with exit code "
            f"{named.returncode} instead of {EngineUnavailableError.exit_code}: {_last(named)}"
        )
    chosen = _verify(bench)
    if target.engine not in chosen.stderr:
        raise CheckFailedError(
            f"auto does not say why {target.engine} is left out: {_last(chosen)}"
        )
    return Finding(f"“{_last(named)}”")


def _verify(bench: Workbench, *options: str) -> subprocess.CompletedProcess[str]:
    """`pathgene-rt verify` in a process that sees no card."""
    command = [sys.executable, "-m", "pathgene_rt.cli", "verify", str(bench.job.bundle)]
    environment = {**os.environ, **HIDDEN, "PATHGENE_RT_CACHE": str(bench.job.folder / "hidden")}
    return subprocess.run(
        [*command, *options], check=False, capture_output=True, text=True, env=environment
    )


def _last(ended: subprocess.CompletedProcess[str]) -> str:
    return (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]


def named_device(bench: Workbench) -> Finding:
    """What the report will name as the device is a card that the driver sees."""
    _require_gpu(bench)
    names = [gpu.name for gpu in cuda_devices()]
    with bench.factory().encoder() as encoder:
        device = encoder.info.device
        if encoder.info.backend != bench.job.target.engine:
            raise CheckFailedError(f"{encoder.info.backend} computes instead")
    if not any(name in device for name in names):
        raise CheckFailedError(f"the device is said to be {device}; the driver sees {names}")
    return Finding(device)


def out_of_memory(bench: Workbench) -> Finding:
    """On a card that others have filled the batch is halved, once, with a warning; all is right.

    Afterwards, with the memory free again, nothing is halved.
    """
    device = _device(bench)
    with device.current("measure free memory"):
        before = device.memory_info()[0]
    with bench.factory().encoder() as encoder:
        batch = bench.factory().options.batch
        tiles = np.resize(bench.tiles, (2 * batch, *bench.tiles.shape[1:]))
        encode_tiles(encoder, tiles, batch)
        with device.current("measure free memory"):
            taken = before - device.memory_info()[0]
    if taken < 4 * FILL_STEP:
        raise NotRunError(f"the engine takes only {taken / 1e6:.0f} MB: nothing to run out of")
    reference = np.resize(bench.golden, (len(tiles), bench.golden.shape[1]))
    with _filled(device, int(LEFT_SHARE * taken)) as left:
        try:
            with bench.factory().encoder() as encoder:
                features = encode_tiles(encoder, tiles, batch)
                warnings = _of_halving(encoder)
        except EngineError as error:
            raise CheckFailedError(f"with {left / 1e6:.0f} MB left: {error}") from error
    bench.require_features(features, reference, f"with {left / 1e6:.0f} MB left")
    if len(warnings) != 1:
        raise CheckFailedError(f"{len(warnings)} warnings instead of one: {'; '.join(warnings)}")
    with bench.factory().encoder() as encoder:
        encode_tiles(encoder, tiles, batch)
        if told := _of_halving(encoder):
            raise CheckFailedError(f"halved though memory is free: {told[0]}")
    figures = {"engine MB": taken / 1e6, "left MB": left / 1e6}
    return Finding(f"“{warnings[0]}”", figures)


def _of_halving(encoder: Engine) -> list[str]:
    """The warnings that say that a batch is computed in parts (``engines/cuda/halving.py``)."""
    return [warning for warning in encoder.warnings if "tiles a call" in warning]


@contextmanager
def _filled(device: CudaDevice, leave: int) -> Iterator[int]:
    """Take the card's memory but for some ``leave`` bytes; yields how many are free."""
    taken: list[DeviceMemory] = []
    try:
        with device.current("fill the card"):
            while (free := device.memory_info()[0]) > leave + FILL_STEP:
                try:
                    taken.append(device.allocate(max(FILL_STEP, (free - leave) // 2)))
                except DeviceMemoryError:  # of pieces that are too small
                    break
        yield free
    finally:
        with device.current("free the card"):
            for memory in taken:
                memory.close()


def encoded_tiles(bench: Workbench) -> Finding:
    """Tiles that the card decodes itself have the features of those that the processor decodes."""
    _require_gpu(bench)
    with (
        bench.factory().encoder() as encoder,
        prepare_slide(
            bench.job.slide, bench.bundle.preprocess, PredictOptions(exact=True)
        ) as prepared,
    ):
        decoder, source = encoder.decoder, prepared.slide.encoded_source(prepared.grid.level)
        if decoder is None:
            raise NotRunError("this engine takes pixels only")
        if source is None:
            raise NotRunError(f"{prepared.slide.reader} gives pixels only")
        if why := decoder.refusal(source.level):
            raise NotRunError(why)
        grid = prepared.grid
        corners = [(int(x), int(y)) for x, y in grid.xy[: len(bench.tiles)]]
        regions = [source.region(corner, grid.read_px) for corner in corners]
        batch = EncodedBatch(regions, grid.tile_px)
        expected = np.empty(batch.shape, np.uint8)
        for corner, tile in zip(corners, expected, strict=True):
            read_tile(prepared.slide, grid, corner, bench.bundle.preprocess.reduction, tile)
        pixels = decoder.pixels(batch)
        encoder.submit_encoded(batch)
        features = np.array(encoder.result()["features"])
        error = fidelity_error(features, encode_tiles(encoder, expected, len(batch)))
        rate = len(batch) / seconds_of(lambda: decoder.pixels(batch))
    differing = float((pixels != expected).mean())
    if not error.median <= DECODE_LIMITS.features:
        raise CheckFailedError(
            f"e of decoding on the card is {error.median:.4f}, over {DECODE_LIMITS.features:g}; "
            f"{differing:.1%} of samples differ"
        )
    figures = {"e median": error.median, "samples that differ": differing, "tiles/s": rate}
    words = f"{decoder.name}: {differing:.1%} of samples differ, e median {error.median:.4f}"
    return Finding(f"{words}; {rate:,.0f} tiles/s in one batch of {len(batch)}", figures)


def copies(bench: Workbench) -> Finding:
    """Gigabytes a second between pinned memory and the card."""
    device = _device(bench)
    with device.current("time copies"):
        stream = device.stream()
        pinned, memory = device.pin(COPY_BYTES), device.allocate(COPY_BYTES)
        try:

            def upload() -> None:
                device.upload(memory.address, pinned.bytes, stream)
                stream.synchronize()

            def download() -> None:
                device.download(pinned.bytes, memory.address, stream)
                stream.synchronize()

            to_card = COPY_BYTES / seconds_of(upload) / 1e9
            back = COPY_BYTES / seconds_of(download) / 1e9
        finally:
            memory.close()
            pinned.close()
            stream.close()
    tile_mb = bench.tiles[0].nbytes / 1e6
    figures = {"to the card GB/s": to_card, "back GB/s": back}
    words = (
        f"{to_card:.1f} GB/s to the card ({1e3 * to_card / tile_mb:,.0f} tiles/s), {back:.1f} back"
    )
    return Finding(words, figures)


def _require_gpu(bench: Workbench) -> None:
    if not bench.job.gpu:
        raise NotRunError("this engine computes on the CPU")


def _device(bench: Workbench) -> CudaDevice:
    """The first card. Raises NotRunError for engines of the CPU and without cuda.core, pycuda."""
    _require_gpu(bench)
    try:
        return open_device()
    except EngineUnavailableError as error:
        raise NotRunError(str(error)) from error


GPU_CHECKS = (
    Check("named device", "the card computes, under its name", named_device),
    Check("hidden card", "without the card nothing computes in its place", hidden_card, 900.0),
    Check("encoded tiles", "the card decodes tiles as the processor does", encoded_tiles),
    Check("out of memory", "a filled card halves the batch, once", out_of_memory, 3600.0),
)

GPU_TIMING_CHECKS = (
    Check("time: copies", "what the bus allows", copies, timing=True),
    Check("time: decode on the card", "how fast tiles come from it", encoded_tiles, timing=True),
)
