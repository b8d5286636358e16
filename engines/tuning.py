"""How many tiles a call and how many calls at once suit an encoder on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from pathgene_rt.bundle import Bundle
from pathgene_rt.engine import Engine
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import EngineOptions

BATCHES = (4, 8, 16, 32)
_TILES = 48
"""Of each measurement: a second or two for a CTransPath on two cores."""

_ROUNDS = 2
_WORTH = 1.02
"""What takes more memory and longer to the first result must be faster by so much."""


@dataclass(frozen=True)
class Tuning:
    """``batch`` tiles a call, ``in_flight`` calls at once, and the rate that was measured so."""

    batch: int
    in_flight: int
    tiles_per_second: float


def tune(bundle: Bundle, options: EngineOptions) -> Tuning:
    """Try what ``options`` leave open (0) on the bundle's golden tiles. Raises EngineError.

    ``options`` name a backend and a precision. Every combination is measured in each of a few
    rounds, so that a machine that slows down meanwhile slows all of them.
    """
    tiles = bundle.golden("encoder")["tiles"]
    rates: dict[tuple[int, int], list[float]] = {}
    for in_flight in [options.in_flight] if options.in_flight else _in_flights():
        factory = EngineFactory(bundle, replace(options, in_flight=in_flight))
        with factory.encoder() as encoder:
            for _ in range(_ROUNDS):
                for batch in [options.batch] if options.batch else BATCHES:
                    rate = measure_rate(encoder, tiles, batch)
                    rates.setdefault((in_flight, batch), []).append(rate)
    found = [Tuning(batch, n, median(measured)) for (n, batch), measured in rates.items()]
    best = max(entry.tiles_per_second for entry in found)
    good = [entry for entry in found if entry.tiles_per_second * _WORTH >= best]
    return min(good, key=lambda entry: entry.batch * entry.in_flight)


def measure_rate(encoder: Engine, tiles: UInt8Array, batch: int) -> float:
    """Tiles a second in full batches of ``tiles`` uint8 [n, p, p, 3], taken again and again."""
    name = encoder.spec.inputs[0].name
    calls = max(2 * encoder.in_flight, -(-_TILES // batch))
    part = np.ascontiguousarray(np.resize(tiles, (batch, *tiles.shape[1:])))
    encoder.submit({name: part})  # compiles for this shape
    encoder.result()
    began = time.perf_counter()
    for number in range(calls):
        if number >= encoder.in_flight:
            encoder.result()
        encoder.submit({name: part})
    for _ in range(min(calls, encoder.in_flight)):
        encoder.result()
    return calls * batch / (time.perf_counter() - began)


def _in_flights() -> Iterator[int]:
    """Two at least, so that one is prepared while another is computed; then a core or two each."""
    cores = os.cpu_count() or 2
    yield from sorted({max(2, count) for count in (2, cores // 4, cores // 2, cores)})
