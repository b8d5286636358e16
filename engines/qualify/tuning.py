"""How many tiles a call and how many calls at once suit an encoder on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.registry import EngineFactory, choose
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import EngineOptions

_TILES, _TILES_ON_GPU = 48, 2048
"""Of each measurement: a second or two for a CTransPath on two cores, as on a small card."""

_ROUNDS = 2
_WORTH = 1.02
"""What takes more memory and longer to the first result must be faster by so much."""
_BEHIND = 1.05
"""What the best found so far is faster by so much is not measured again."""


@dataclass(frozen=True)
class Tuning:
    """``batch`` tiles a call, ``in_flight`` calls at once, and the rate that was measured so."""

    batch: int
    in_flight: int
    tiles_per_second: float


def tune(bundle: Bundle, options: EngineOptions) -> Tuning:
    """Try what ``options`` leave open (0) on the bundle's golden tiles. Raises EngineError.

    ``options`` name a backend and a precision. What may be the best is measured in each of a few
    rounds, so that a machine that slows down meanwhile slows all of them.
    """
    tiles = bundle.golden("encoder")["tiles"]
    selection = choose(options)
    batches = (options.batch,) if options.batch else selection.availability.batches
    on_gpu = selection.backend.on_gpu
    rates: dict[tuple[int, int], list[float]] = {}
    fastest = 0.0
    for in_flight in [options.in_flight] if options.in_flight else _in_flights(on_gpu):
        # On a card an engine is made for a batch, on a processor one takes any.
        for together in [(batch,) for batch in batches] if on_gpu else [batches]:
            named = replace(options, batch=together[-1], in_flight=in_flight)
            with EngineFactory(bundle, named).encoder() as encoder:
                for _ in range(_ROUNDS):
                    for batch in together:
                        measured = rates.setdefault((in_flight, batch), [])
                        if measured and measured[0] * _BEHIND < fastest:
                            continue
                        measured.append(measure_rate(encoder, tiles, batch, on_gpu=on_gpu))
                        fastest = max(fastest, measured[-1])
    found = [Tuning(batch, n, median(measured)) for (n, batch), measured in rates.items()]
    best = max(entry.tiles_per_second for entry in found)
    good = [entry for entry in found if entry.tiles_per_second * _WORTH >= best]
    return min(good, key=lambda entry: entry.batch * entry.in_flight)


def measure_rate(encoder: Engine, tiles: UInt8Array, batch: int, *, on_gpu: bool = False) -> float:
    """Tiles a second in full batches of ``tiles`` uint8 [n, p, p, 3], taken again and again: for
    about as long on a card as on a processor."""
    name = encoder.spec.inputs[0].name
    least = _TILES_ON_GPU if on_gpu else _TILES
    calls = max(2 * encoder.in_flight, -(-least // batch))
    part = encoder.input_buffer(name, (batch, *tiles.shape[1:]))
    part[:] = np.resize(tiles, part.shape)
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


def _in_flights(on_gpu: bool) -> Iterator[int]:
    """Two at least, so that one is prepared while another is computed; then a core or two each.

    A card computes one call after the other: more of them bridge delays of the computer.
    """
    cores = usable_cpus()
    yield from (
        (2, 4) if on_gpu else sorted({max(2, n) for n in (2, cores // 4, cores // 2, cores)})
    )
