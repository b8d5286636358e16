"""An encoder's session on one CUDA stream, and memory for the calls that are on their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.cuda.device import (
    CudaDevice,
    DeviceMemory,
    Event,
    PinnedMemory,
    Stream,
)
from pathgene_rt.engines.cuda.errors import never_free
from pathgene_rt.engines.engine import Array
from pathgene_rt.errors import EngineError

OpenSession = Callable[[int], Any]
"""Opens the session that computes on the stream of this handle."""

_NO_GRAPH = -1
"""ONNX Runtime's number for a call that is neither captured nor replayed."""

MEMORY = "cuda"
"""ONNX Runtime's name of the memory that calls read and write."""

_SEED = 0
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Slot:
    """Memory of one call, ``taken`` and ``given`` on the device, the ``stream`` that fills it, and
    the points that it passes."""

    number: int
    stream: Stream
    taken: DeviceMemory
    given: DeviceMemory
    host: PinnedMemory
    uploaded: Event
    computed: Event


class EncoderLane:
    """``calls`` calls of up to ``batch`` tiles: one computes while others are copied or wait.

    What fills a slot goes on the slot's own stream, beside the computation of the call before.
    ONNX Runtime only enqueues a call, and keeps CUDA graphs by thread: :meth:`run`, :meth:`warm_up`
    and :meth:`capture` are for one thread. Everything happens where ``device`` is current.
    """

    def __init__(
        self,
        open_session: OpenSession,
        spec: ModelSpec,
        device: CudaDevice,
        batch: int,
        calls: int,
    ) -> None:
        self.batch = batch
        self._device = device
        self._input, self._output = spec.inputs[0], spec.outputs[0]
        self._captured: dict[int, tuple[Any, Any]] = {}
        with ExitStack() as stack:
            self._compute = stack.enter_context(closing(device.stream()))
            self.slots = [self._slot(number, stack) for number in range(calls)]
            self._session = open_session(self._compute.handle)
            stack.callback(self._drop)
            self._resources = stack.pop_all()

    def upload(self, slot: Slot, tiles: Array) -> None:
        """Enqueue the copy of ``tiles`` uint8 [n, p, p, 3], which must live until it is done."""
        self.fill(slot, lambda address, stream: self._device.upload(address, tiles, stream))

    def fill(self, slot: Slot, enqueue: Callable[[int, Stream], None]) -> None:
        """Let ``enqueue`` put what writes the tiles to an address into a stream."""
        enqueue(slot.taken.address, slot.stream)
        slot.uploaded.record()

    def run(self, slot: Slot, tiles: int) -> None:
        """Enqueue the computation of the first ``tiles`` in ``slot`` and the copy of the result."""
        # On the host: with an older ONNX Runtime the call below waits for its end, but this one is
        # over long before, while the call before computes.
        slot.uploaded.synchronize()
        captured = self._captured.get(slot.number) if tiles == self.batch else None
        binding, options = captured or (self._binding(slot, tiles), _run_options(_NO_GRAPH))
        self._session.run_with_iobinding(binding, options)
        self._device.download(self._rows(slot, tiles), slot.given.address, self._compute)
        slot.computed.record()

    def result(self, slot: Slot, tiles: int) -> Array:
        """Wait for what :meth:`run` enqueued; the output's rows, in an array of their own."""
        slot.computed.synchronize()
        return np.array(self._rows(slot, tiles))

    def warm_up(self) -> None:
        """Compute one whole batch, so that the memory for it is there. Raises DeviceMemoryError."""
        self._features(self.slots[0], _noise(self._shape(self._input, self.batch)))

    def capture(self) -> None:
        """Capture the call of a whole batch as a CUDA graph, for each slot.

        A graph repeats what it saw with the same addresses. That it gives what computing gives is
        tried with other tiles than it was captured with. Nothing else of the process may use the
        GPU meanwhile. Raises EngineError: this lane is then to be closed.
        """
        shape = self._shape(self._input, self.batch)
        for slot in self.slots:
            computed = self._features(slot, _noise(shape))
            self._captured[slot.number] = (
                self._binding(slot, self.batch),
                _run_options(slot.number + 1),
            )
            self._features(slot, np.zeros(shape, self._input.dtype))
            replayed = self._features(slot, _noise(shape))
            if not np.allclose(replayed, computed, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise EngineError("a CUDA graph gives other features than the call that it repeats")

    def synchronize(self) -> None:
        """Wait for all that is enqueued."""
        for slot in self.slots:
            slot.stream.synchronize()
        self._compute.synchronize()

    def close(self) -> None:
        """Wait for what is enqueued and free everything."""
        self._resources.close()

    def _features(self, slot: Slot, tiles: Array) -> Array:
        """Of ``tiles``, in one call that is waited for."""
        self.upload(slot, tiles)
        self.run(slot, len(tiles))
        return self.result(slot, len(tiles))

    def _slot(self, number: int, stack: ExitStack) -> Slot:
        device, given = self._device, _size(self._output, self.batch)
        stream = stack.enter_context(closing(device.stream()))
        taken = device.allocate(_size(self._input, self.batch))
        return Slot(
            number,
            stream,
            taken=stack.enter_context(closing(taken)),
            given=stack.enter_context(closing(device.allocate(given))),
            host=stack.enter_context(closing(device.pin(given))),
            uploaded=stack.enter_context(closing(stream.event())),
            computed=stack.enter_context(closing(self._compute.event())),
        )

    def _binding(self, slot: Slot, tiles: int) -> Any:
        """Input and output of a call of ``tiles``, where they lie on the device."""
        binding = self._session.io_binding()
        binding.bind_input(*self._bound(self._input, slot.taken, tiles))
        binding.bind_output(*self._bound(self._output, slot.given, tiles))
        return binding

    def _bound(self, tensor: TensorSpec, memory: DeviceMemory, tiles: int) -> tuple[Any, ...]:
        """What ONNX Runtime asks of a tensor in our memory: name, device, type, shape, address."""
        shape, dtype = self._shape(tensor, tiles), np.dtype(tensor.dtype).type
        return tensor.name, MEMORY, self._device.index, dtype, shape, memory.address

    def _rows(self, slot: Slot, tiles: int) -> Array:
        shape = self._shape(self._output, tiles)
        used = slot.host.bytes[: _size(self._output, tiles)]
        return used.view(self._output.dtype).reshape(shape)

    def _shape(self, tensor: TensorSpec, tiles: int) -> Sequence[int]:
        return (tiles, *(int(size) for size in tensor.shape[1:]))

    def _drop(self) -> None:
        """Wait for what is enqueued, and let go of the session and its graphs."""
        try:
            self.synchronize()
        except BaseException:
            never_free(self._session)
            raise
        finally:
            self._captured.clear()
            self._session = None


def tile_bytes(spec: ModelSpec) -> int:
    """Bytes of one tile's input and output on the device."""
    return _size(spec.inputs[0], 1) + _size(spec.outputs[0], 1)


def _size(tensor: TensorSpec, tiles: int) -> int:
    return tiles * math.prod(map(int, tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize


def _noise(shape: Sequence[int]) -> Array:
    """Tiles uint8 of this shape, each different, the same each time."""
    some = np.random.default_rng(_SEED).integers(0, 256, math.prod(shape[1:]) + 1, dtype=np.uint8)
    return np.resize(some, shape)


def _run_options(graph: int) -> Any:
    """To enqueue a call only, and to capture or replay it as this graph."""
    from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
