"""What all engines share: checked inputs, the order of results, the busy clock, closing."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np

from pathgene_rt.bundle.spec import DType, ModelSpec, TensorSpec
from pathgene_rt.engines.engine import Array, BusyClock, EncodedTileDecoder, EngineInfo
from pathgene_rt.errors import EngineError
from pathgene_rt.own_process import OwnProcess
from pathgene_rt.slides.encoded_region import EncodedBatch

ALIGNMENT = 64
"""Bytes: a cache line, and what OpenVINO asks of memory that it reads in place."""

Ticket = TypeVar("Ticket")


class BusySpan:
    """One submission's time on the clock: from construction to the first :meth:`end`, which is told
    by calling ``tell``."""

    def __init__(self, clock: BusyClock, tell: Callable[[], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self.running = True
        clock.start()

    def end(self) -> None:
        """Stop the clock for this submission. Idempotent, from any thread."""
        with self._lock:
            if not self.running:
                return
            self.running = False
            self._clock.stop()
        self._tell()


class RunnerBase(ABC, Generic[Ticket]):
    """The part of an :class:`~pathgene_rt.engines.engine.Engine` that needs no native library.

    A backend starts a computation and gives a ticket for it, waits for a ticket, and frees what it
    holds. All three may raise EngineError only. :meth:`result` returns arrays of its own, so they
    stay valid longer than the contract asks.
    """

    decoder: EncodedTileDecoder | None = None

    tells_ends: ClassVar[bool] = False
    """Whether a submission's span ends with its computation. Else it ends with its result."""

    def __init__(self, spec: ModelSpec, info: EngineInfo, in_flight: int) -> None:
        self.spec = spec
        self.info = info
        self.in_flight = in_flight
        self.busy = BusyClock()
        self._warnings: list[str] = []
        self._inputs = {tensor.name: tensor for tensor in spec.inputs}
        self._outstanding: deque[tuple[Ticket, BusySpan]] = deque()
        self._tell: Callable[[], None] = lambda: None
        self._closed = False
        self._process = OwnProcess(f"the {self._named}")
        # Held while waiting for a result, so that close() from another thread comes after it.
        self._lock = threading.RLock()

    @property
    def device(self) -> str:
        return self.info.device

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def warn(self, what: str) -> None:
        """Add to :attr:`warnings`, once, for the report of whoever uses this engine."""
        if what not in self._warnings:
            self._warnings.append(what)

    def input_buffer(self, name: str, shape: tuple[int, ...]) -> Array:
        """A new array of the input's dtype whose first byte lies on a cache line."""
        return aligned_empty(shape, self._dtype_of(name))

    def holding(self, array: Array) -> AbstractContextManager[None]:  # noqa: ARG002 - read in place
        return nullcontext()

    def submit(self, inputs: Mapping[str, Array]) -> None:
        self._check(inputs)
        self._launch(lambda span: self._start({name: inputs[name] for name in self._inputs}, span))

    def submit_encoded(self, batch: EncodedBatch) -> None:
        taken = self.spec.inputs[0].shape[1:]
        if self.decoder is None or batch.shape[1:] != taken:
            raise EngineError(
                f"{self._named} cannot decode encoded tiles to {_shape_text(batch.shape)}; give it "
                f"pixels of {_shape_text(taken)}"
            )
        self._launch(lambda span: self._start_encoded(batch, span))

    def _launch(self, start: Callable[[BusySpan], Ticket]) -> None:
        self._process.require()
        with self._lock:
            self._require_open()
            if len(self._outstanding) >= self.in_flight:
                raise EngineError(
                    f"{self._named} has {self.in_flight} submissions outstanding already; "
                    "take a result first"
                )
            span = BusySpan(self.busy, self._tell)
            try:
                ticket = start(span)
            except BaseException:
                span.end()
                raise
            self._outstanding.append((ticket, span))

    def tell_ends(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    @property
    def ended(self) -> bool:
        # A copy, which is made in one step: close() may come from any thread.
        oldest = tuple(self._outstanding)[:1]
        return not self.tells_ends or not any(span.running for _, span in oldest)

    def result(self) -> Mapping[str, Array]:
        self._process.require()
        with self._lock:
            self._require_open()
            if not self._outstanding:
                raise EngineError(f"{self._named} has no submission outstanding; submit one first")
            ticket, span = self._outstanding.popleft()
            try:
                return self._wait(ticket)
            finally:
                span.end()

    def close(self) -> None:
        if not self._process.is_this:
            return  # what there is to free is the other process's
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._free([ticket for ticket, _ in self._outstanding])
            finally:
                for _, span in self._outstanding:
                    span.end()
                self._outstanding.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _start(self, inputs: dict[str, Array], span: BusySpan) -> Ticket:
        """Start computing; ``span.end()`` is due when the computation ends."""

    def _start_encoded(self, batch: EncodedBatch, span: BusySpan) -> Ticket:
        """As :meth:`_start`, of tiles that ``decoder`` decodes. Only called where there is one."""
        raise NotImplementedError

    @abstractmethod
    def _wait(self, ticket: Ticket) -> dict[str, Array]:
        """Outputs by name, once computed, in arrays that the engine does not reuse."""

    @abstractmethod
    def _free(self, outstanding: list[Ticket]) -> None:
        """Wait for what is outstanding, whatever its outcome, and free everything."""

    @property
    def _named(self) -> str:
        return f"{self.info.backend} engine of {self.spec.name}"

    @property
    def _input_names(self) -> str:
        return ", ".join(self._inputs)

    def _dtype_of(self, name: str) -> DType:
        """Of the input called ``name``. Raises EngineError if there is none."""
        if name not in self._inputs:
            raise EngineError(f"{self._named} has no input {name!r}; it has {self._input_names}")
        return self._inputs[name].dtype

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"{self._named} is closed; create it again")

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Raise EngineError unless the arrays are what the graph declares.

        Axes of the same name have the same length, as ``n`` of features and of coords.
        """
        if inputs.keys() != self._inputs.keys():
            raise EngineError(
                f"{self._named} takes {self._input_names}, it was given {', '.join(inputs) or '-'}"
            )
        axes: dict[str, int] = {}
        for name, tensor in self._inputs.items():
            array = inputs[name]
            if not (_fits(array, tensor, axes) and array.flags.c_contiguous):
                raise EngineError(
                    f"{self._named} takes {name} as contiguous {tensor.dtype} "
                    f"{_shape_text(tensor.shape)}, it was given {array.dtype} "
                    f"{_shape_text(array.shape)}"
                )


def _fits(array: Array, tensor: TensorSpec, axes: dict[str, int]) -> bool:
    if array.dtype != np.dtype(tensor.dtype) or array.ndim != len(tensor.shape):
        return False
    return all(
        size == (axes.setdefault(axis, size) if isinstance(axis, str) else axis)
        and (size > 0 or axis == "e")  # a bag of one tile has no edges
        for size, axis in zip(array.shape, tensor.shape, strict=True)
    )


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def aligned_empty(shape: tuple[int, ...], dtype: str) -> Array:
    """An uninitialised C-contiguous array whose data starts at a multiple of ALIGNMENT bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(shape)
