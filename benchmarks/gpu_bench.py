"""What the parts of `gpu.py` share: their settings, weights and tiles, and one way to time them.

On a card every rate is timed with CUDA events around many calls after a warm-up and is the median
of several rounds; on a CPU (to try the parts) with the clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.training.encoders.ctranspath import CTransPath

Row = dict[str, Any]


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
        events: Any = torch.cuda.Event  # not typed
        start, end = (events(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def encoder(self) -> CTransPath:
        return CTransPath.seeded(self.settings.seed).eval().to(self.device)

    def golden(self) -> tuple[UInt8Array, Float32Array, Preprocess]:
        """Tiles, features that torch float32 gave them, and how pixels are prepared."""
        with Bundle.open(Path(self.settings.bundle)) as bundle:
            arrays = bundle.golden("encoder")
            return arrays["tiles"], arrays["features"], bundle.preprocess
