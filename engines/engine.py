"""The contract between the streaming pipeline and whatever runs a graph here.

An engine takes several submissions and returns their results in order; with two in flight the
hardware never waits for Python. Implementations live in ``pathgene_rt.engines``, one folder each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import Precision
from pathgene_rt.slides.encoded_region import EncodedBatch, EncodedLevel

Array = NDArray[Any]


@dataclass(frozen=True)
class FidelityLimits:
    """How far a precision may move from float32 torch (docs/design.md, "Limits")."""

    features: float
    probabilities: float


LIMITS: dict[Precision, FidelityLimits] = {
    "float32": FidelityLimits(features=0.002, probabilities=0.001),
    "float16": FidelityLimits(features=0.01, probabilities=0.005),
    "bfloat16": FidelityLimits(features=0.05, probabilities=0.005),
    "int8": FidelityLimits(features=0.1, probabilities=0.01),
}


@dataclass(frozen=True)
class EngineInfo:
    """Which engine runs, for reports: e.g. ("openvino", "2026.4.1", "AMD EPYC", "bfloat16")."""

    backend: str
    version: str
    device: str
    precision: Precision
    threads: int


class BusyClock:
    """Seconds in which at least one submission was being computed or queued in the engine.

    Thread-safe: engines call :meth:`start` at submission and :meth:`stop` from whichever thread
    sees the computation end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._since = 0.0
        self._seconds = 0.0

    def start(self) -> None:
        with self._lock:
            if self._active == 0:
                self._since = time.perf_counter()
            self._active += 1

    def stop(self) -> None:
        with self._lock:
            self._active -= 1
            if self._active == 0:
                self._seconds += time.perf_counter() - self._since

    @property
    def seconds(self) -> float:
        with self._lock:
            running = time.perf_counter() - self._since if self._active else 0.0
            return self._seconds + running


class EncodedTileDecoder(Protocol):
    """The part of an encoder's engine that decodes encoded tiles on the engine's own device."""

    @property
    def name(self) -> str:
        """What decodes, with its version, for the report: e.g. "nvImageCodec 0.9.0"."""

    def refusal(self, level: EncodedLevel) -> str:
        """Why tiles that are stored so cannot be decoded here, in words, or an empty string."""

    def pixels(self, batch: EncodedBatch) -> UInt8Array:
        """What :meth:`Engine.submit_encoded` would encode, uint8 [n, tile_px, tile_px, 3]; waits.

        Raises EncodedTileError, EngineError.
        """


class Engine(Protocol):
    """A compiled graph. One thread submits and takes results; ``close`` may come from any.

    Buffers: an array given to :meth:`submit` belongs to the engine until the matching
    :meth:`result` has returned. Arrays from :meth:`result` are valid until the next
    :meth:`result` or :meth:`close`; copy what must live longer.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def info(self) -> EngineInfo: ...

    @property
    def device(self) -> str:
        """Name of the hardware that computes."""

    @property
    def in_flight(self) -> int:
        """How many submissions may be outstanding; at least 2 for encoders."""

    @property
    def busy(self) -> BusyClock: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the report should know of how it has run so far, e.g. smaller calls."""

    @property
    def decoder(self) -> EncodedTileDecoder | None:
        """None: this engine takes pixels only."""

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> Array:
        """A new array of the input's dtype, in memory that this engine reads fastest."""

    def holding(self, array: Array) -> AbstractContextManager[None]:
        """Promise that ``array`` stays as it is during the block.

        Engines of one device that are given it one after the other then copy it there once; each
        result must be taken before the next engine is given it, and within the block.
        """

    def submit(self, inputs: Mapping[str, Array]) -> None:
        """Start computing. Raises EngineError, also when ``in_flight`` are outstanding already."""

    def submit_encoded(self, batch: EncodedBatch) -> None:
        """As :meth:`submit` of an encoder's tiles, which this engine's ``decoder`` decodes.

        Raises EncodedTileError where one cannot be decoded: nothing was submitted then.
        """

    def tell_ends(self, tell: Callable[[], None]) -> None:
        """From now on call ``tell``, in any thread, when a submission ends: see :attr:`ended`."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing to wait for but :meth:`result`: the oldest submission ended, or
        none is outstanding, or this engine learns of an end by its result alone."""

    def result(self) -> Mapping[str, Array]:
        """Outputs by name of the oldest outstanding submission; waits. Raises EngineError."""

    def close(self) -> None:
        """Wait for what is in flight and free everything. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
