"""What one call in flight needs: a context bound to memory on the device, and a stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np

from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.engines.cuda.device import CudaDevice, DeviceMemory, Event, PinnedMemory, Stream
from pathgene_rt.engines.cuda.errors import DeviceMemoryError
from pathgene_rt.engines.cuda.growing_memory import Growing
from pathgene_rt.engines.engine import Array
from pathgene_rt.engines.tensorrt.engine_tensors import Profiles, shape_text
from pathgene_rt.engines.tensorrt.graph import BoundCall, GraphedCalls, RefusedError, Shapes
from pathgene_rt.engines.tensorrt.plan import LoadedPlan

if TYPE_CHECKING:
    import tensorrt as trt

KEPT_BYTES = 32 << 20
"""Of each piece of a head's memory. Bags differ, and each head would keep that of the largest."""

Fill = Callable[[str, int, Stream], None]
"""Enqueues on the stream that the input of this name is written to the address."""

Resident = Callable[[str, Stream, int], int | None]
"""The address of an input of this name that is on the device already, while (bytes) are going to be
allocated; None: it is not."""


class Lane:
    """A stream, and memory for the activations of the contexts that run on it, one at a time."""

    def __init__(self, device: CudaDevice) -> None:
        self.stream = device.stream()
        self.activations: Growing[DeviceMemory] = Growing(device.allocate, self.stream)

    def close(self) -> None:
        try:
            self.activations.close()
        finally:
            self.stream.close()


class CallSlot:
    """One call at a time of the engine ``loaded`` on ``lane``. Used where ``device`` is current.

    With ``gave_up``, shapes that come again are run as CUDA graphs (:class:`GraphedCalls`). All
    methods raise RefusedError where TensorRT says no, and EngineError.
    """

    def __init__(
        self,
        device: CudaDevice,
        loaded: LoadedPlan,
        spec: ModelSpec,
        profiles: Profiles,
        lane: Lane,
        gave_up: Callable[[Exception], None] | None,
    ) -> None:
        self._device = device
        self._loaded: LoadedPlan | None = loaded
        self._spec = spec
        self._profiles = profiles
        self._lane = lane
        stream = lane.stream
        self._memory: dict[str, Growing[DeviceMemory]] = {
            tensor.name: Growing(device.allocate, stream)
            for tensor in (*spec.inputs, *spec.outputs)
        }
        self._pinned: dict[str, Growing[PinnedMemory]] = {
            tensor.name: Growing(device.pin, stream) for tensor in spec.outputs
        }
        self._graphs = GraphedCalls(stream, self._bind_anew, gave_up)
        self._graphs_versions: tuple[int, ...] = ()
        self._kept: tuple[Shapes, tuple[int, ...], BoundCall] | None = None
        self._context: trt.IExecutionContext | None = None
        self._done: Event | None = None
        self._results: dict[str, Array] = {}

    def open(self) -> None:
        """Make what it holds; :meth:`close` after it also if it fails."""
        self._done = self._lane.stream.event()
        self._context = self._new_context()

    def activation_bytes(self, shapes: Shapes) -> int:
        """What a call of ``shapes`` needs for its activations."""
        self._kept = None
        return self._shape(self._own_context, shapes)

    def reserve(self, shapes: Shapes) -> None:
        """Allocate what a call of ``shapes`` needs."""
        self._own_call(shapes, None)

    def start(self, shapes: Shapes, fill: Fill, resident: Resident | None = None) -> None:
        """Enqueue a call: ``fill`` writes the inputs that are not ``resident``.

        If it fails, :meth:`abandon` the call.
        """
        stream = self._lane.stream
        graphed = self._graphed(shapes)
        call = graphed or self._own_call(shapes, resident)
        for name, address in call.fill.items():
            fill(name, address, stream)
        if graphed is None or not self._graphs.enqueue(graphed):
            if graphed is not None:
                call = self._own_call(shapes, resident)
            call.enqueue(stream.handle)
        self._results = {
            tensor.name: self._download(tensor, call.outputs[tensor.name])
            for tensor in self._spec.outputs
        }
        self._event.record()

    def wait(self) -> dict[str, Array]:
        """Outputs by name, copied out of the slot's memory, once they are there."""
        self._event.synchronize()
        return {name: np.array(result) for name, result in self._results.items()}

    def abandon(self) -> None:
        """Wait until nothing of a failed call runs, and give back all memory: it may be the cause.

        It is allocated again by the next call.
        """
        # What went wrong is under way to the caller already.
        with suppress(Exception):
            self._lane.stream.synchronize()
        with suppress(Exception):
            self.give_back_above(0)

    def give_back_above(self, size: int) -> None:
        """Free each piece of memory of more than ``size`` bytes; no call may be under way."""
        self._results = {}
        for memory in (*self._own_memory, self._lane.activations):
            memory.give_back_above(size)

    def close(self) -> None:
        """Free everything, once the lane's work is done. Idempotent."""
        self._results = {}
        with ExitStack() as stack:
            for memory in self._own_memory:
                stack.callback(memory.close)
            if self._done is not None:
                stack.callback(self._done.close)
            stack.callback(self._drop_contexts)

    def _drop_contexts(self) -> None:
        try:
            self._lane.stream.synchronize()
        finally:
            try:
                self._graphs.clear()
            finally:
                self._kept = self._context = self._loaded = None

    @property
    def _own_memory(self) -> list[Growing[DeviceMemory] | Growing[PinnedMemory]]:
        return [*self._memory.values(), *self._pinned.values()]

    @property
    def _own_context(self) -> trt.IExecutionContext:
        assert self._context is not None, "the slot is not open"
        return self._context

    @property
    def _event(self) -> Event:
        assert self._done is not None, "the slot is not open"
        return self._done

    def _new_context(self) -> trt.IExecutionContext:
        assert self._loaded is not None, "the slot is closed"
        context = self._loaded.new_context()
        if context is None:
            raise DeviceMemoryError(
                f"{self._device.name} is out of memory for an execution context of "
                f"{self._spec.name}"
            )
        return context

    def _graphed(self, shapes: Shapes) -> BoundCall | None:
        versions = self._versions
        if versions != self._graphs_versions:
            self._graphs_versions = versions
            self._graphs.clear()
        return self._graphs.find(shapes)

    def _own_call(self, shapes: Shapes, resident: Resident | None) -> BoundCall:
        """The slot's own context bound to ``shapes``, anew unless it is so from the last time."""
        if resident is None and self._kept is not None:
            kept, versions, call = self._kept
            if kept == shapes and versions == self._versions:
                return call
        self._kept = None
        call = self._bind(self._own_context, shapes, resident)
        if resident is None:
            self._kept = shapes, self._versions, call
        return call

    @property
    def _versions(self) -> tuple[int, ...]:
        """Of what a bound call has the addresses of."""
        pieces = (*self._memory.values(), self._lane.activations)
        return tuple(piece.version for piece in pieces)

    def _bind_anew(self, shapes: Shapes) -> BoundCall:
        return self._bind(self._new_context(), shapes, None)

    def _bind(
        self, context: trt.IExecutionContext, shapes: Shapes, resident: Resident | None
    ) -> BoundCall:
        """Set shapes, activations and addresses of ``context``; allocates what is missing."""
        need = self._shape(context, shapes)
        call = BoundCall(context, {}, self._output_shapes(context))
        activations = self._lane.activations
        sizes = {
            tensor.name: math.prod(shape) * np.dtype(tensor.dtype).itemsize
            for tensor, shape in (
                *zip(self._spec.inputs, (shape for _, shape in shapes), strict=True),
                *((tensor, call.outputs[tensor.name]) for tensor in self._spec.outputs),
            )
        }
        missing = {name: max(0, size - self._memory[name].size) for name, size in sizes.items()}
        room = max(0, need - activations.size) + sum(missing.values())
        addresses: dict[str, int] = {}
        for name, _ in shapes:
            address = None
            if resident is not None:
                address = resident(name, self._lane.stream, room - missing[name])
            if address is None:
                address = call.fill[name] = self._memory[name].at_least(sizes[name]).address
            addresses[name] = address
        for name in call.outputs:
            self._pinned[name].at_least(sizes[name])
            addresses[name] = self._memory[name].at_least(sizes[name]).address
        block = activations.at_least(need)
        context.set_device_memory(block.address, activations.size)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise RefusedError(f"it refused the address of {name}")
        return call

    def _shape(self, context: trt.IExecutionContext, shapes: Shapes) -> int:
        """Set profile and shapes of ``context``; the bytes that it then needs for activations."""
        profile = self._profiles.of(shapes)
        if context.active_optimization_profile != profile and not (
            context.set_optimization_profile_async(profile, self._lane.stream.handle)
        ):
            raise RefusedError(f"it refused profile {profile}")
        for name, shape in shapes:
            if not context.set_input_shape(name, shape):
                raise RefusedError(f"it refused {name} of shape {shape_text(shape)}")
        if unknown := context.infer_shapes():
            raise RefusedError(f"the shapes of {', '.join(unknown)} are not determined")
        return context.update_device_memory_size_for_shapes()

    def _output_shapes(self, context: trt.IExecutionContext) -> dict[str, tuple[int, ...]]:
        shapes = {
            tensor.name: tuple(context.get_tensor_shape(tensor.name))
            for tensor in self._spec.outputs
        }
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise RefusedError(f"the shape of {name} depends on the data")
        return shapes

    def _download(self, tensor: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Enqueue the copy of an output into its page-locked memory, of which it is a view."""
        size = math.prod(shape) * np.dtype(tensor.dtype).itemsize
        memory = self._pinned[tensor.name].at_least(size)
        result = memory.bytes[:size].view(tensor.dtype).reshape(shape)
        source = self._memory[tensor.name].at_least(size)
        self._device.download(result, source.address, self._lane.stream)
        return result
