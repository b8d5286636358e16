"""The contract of a backend folder: say whether it can run here, and compile a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.engine import Engine
from pathgene_rt.errors import EngineUnavailableError
from pathgene_rt.options import EngineOptions, Precision

ProgressCallback = Callable[[str, float | None], None]
"""Called with what is being done and which share of it is done, None where that is not known."""

BATCHES = (4, 8, 16, 32)
"""Tiles a call that suit processors."""

if TYPE_CHECKING:
    from pathgene_rt.engines.cache.store import EngineCache


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run on this machine, and with what.

    ``reason`` says why not and what to do, or is empty. ``devices`` are names for people, the one
    that computes first. ``precisions`` are those the device computes natively, float32 first.
    ``batches`` are the numbers of tiles a call that `build` tries, ascending.
    """

    available: bool
    reason: str = ""
    version: str = ""
    devices: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    batches: tuple[int, ...] = BATCHES

    @property
    def usual_batch(self) -> int:
        """Tiles a call as long as `build` has not measured: the smallest but one that it tries."""
        return self.batches[min(1, len(self.batches) - 1)]

    def refusal(self, precision: Precision | Literal["auto"]) -> str:
        """Why this backend cannot run in ``precision`` here, or an empty string."""
        if not self.available:
            return self.reason
        if precision not in ("auto", *self.precisions):
            offered = ", ".join(self.precisions)
            return f"{precision} is not native on {self.devices[0]} (it has {offered})"
        return ""


class NotBuiltError(EngineUnavailableError):
    """The compiler of this backend builds no engine of the graph for this card; another may run
    it."""


class NotCalibratedError(EngineUnavailableError):
    """INT8 was asked for, and no calibration of it for this bundle is kept on this machine."""


class Backend(Protocol):
    """One way to run graphs. Stateless; importing its module imports no native library.

    What others must know of it are these facts and what :meth:`probe` finds out here: no name of a
    backend stands anywhere else to decide by.
    """

    @property
    def name(self) -> str:
        """The registry's and the command line's name for it."""

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on an NVIDIA card, which ``auto`` prefers, and leaves if it fails."""

    @property
    def honours_tensorrt_options(self) -> bool:
        """Whether it builds engines as ``EngineOptions.tensorrt`` says, so that they are found
        again only by who says the same."""

    def probe(self) -> Availability:
        """Look whether this backend can run here. Imports the native library; never raises."""

    def create(
        self,
        model: bytes,
        spec: ModelSpec,
        options: EngineOptions,
        precision: Precision,
        cache: EngineCache | None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Compile ``model``, a self-contained ONNX file, or load it compiled from ``cache``.

        ``spec.preprocess`` tells an encoder, whose calls take ``options.batch`` tiles, from a head,
        whose bags are of any size. ``progress`` hears, from any thread, of what takes minutes;
        whatever it raises ends the work. Raises EngineError, NotCalibratedError.
        """


def available(backend: Backend, precision: Precision) -> Availability:
    """What it is here. Raises EngineUnavailableError unless it can run in ``precision``."""
    found = backend.probe()
    if why := found.refusal(precision):
        raise EngineUnavailableError(f"engine {backend.name}: {why}")
    return found
