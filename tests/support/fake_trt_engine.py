"""TensorRT's run-time objects on a fake card: they check how they are used, and compute in numpy.

Beside ``fake_tensorrt.py``, which stands in for building. They insist on what TensorRT asks: no
default stream, aligned addresses, shapes within the profile, activations large enough and of one
call at a time, an ordinary call before a capture. They are no test of TensorRT.
"""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable
from types import ModuleType

import numpy as np

from pathgene_rt.engines.engine import Array
from pathgene_rt.engines.tensorrt.errors import LOG
from tests.support.fake_cuda import ALIGNMENT, FakeGpu, FakeStream

Shape = tuple[int, ...]
Compute = Callable[[dict[str, Array]], dict[str, Array]]


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT64 = 2
    UINT8 = 3


NUMPY = {DataType.FLOAT: "float32", DataType.INT64: "int64", DataType.UINT8: "uint8"}


def module() -> ModuleType:
    """What ``import tensorrt`` finds."""
    made = ModuleType("tensorrt")
    for name in ("ExecutionContextAllocationStrategy", "TensorIOMode", "TensorLocation"):
        setattr(made, name, globals()[name])
    return made


class FakeDims:
    """Neither equal to anything nor hashable, as TensorRT's."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, sizes: Shape) -> None:
        self._sizes = sizes

    def __eq__(self, other: object) -> bool:
        raise TypeError("Dims cannot be compared")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, at: int) -> int:
        return self._sizes[at]


class FakeRuntime:
    def __init__(self, gpu: FakeGpu) -> None:
        weakref.finalize(self, gpu.calls.append, "drop runtime")


class FakeEngine:
    """``tensors`` are (mode, dtype) by name, ``profiles`` (min, opt, max) by input in each.

    ``bytes_for(shapes)`` are the activations of a call, ``outputs(shapes)`` the outputs' shapes.
    ``out_of_memory(shapes)`` refuses to enqueue a call as a full card does.
    """

    def __init__(
        self,
        gpu: FakeGpu,
        tensors: dict[str, tuple[TensorIOMode, DataType]],
        profiles: list[dict[str, tuple[Shape, Shape, Shape]]],
        outputs: Callable[[dict[str, Shape]], dict[str, Shape]],
        bytes_for: Callable[[dict[str, Shape]], int],
        compute: Compute,
    ) -> None:
        self.gpu = gpu
        self.tensors = tensors
        self.profiles = profiles
        self.outputs = outputs
        self.bytes_for = bytes_for
        self.compute = compute
        self.location = TensorLocation.DEVICE
        self.out_of_memory: Callable[[dict[str, Shape]], bool] = lambda shapes: False
        self.captures = True
        self.most_contexts: int | None = None
        self.contexts: weakref.WeakSet[FakeContext] = weakref.WeakSet()
        self.made = 0
        self.enqueued: list[tuple[int, dict[str, Shape]]] = []
        """(stream, shapes) of each ordinary call."""
        weakref.finalize(self, gpu.calls.append, "drop engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.location

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[FakeDims]:
        return [FakeDims(shape) for shape in self.profiles[profile_index][name]]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> FakeContext | None:
        self.gpu.step("create context")
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        if self.most_contexts is not None and len(self.contexts) >= self.most_contexts:
            return None
        self.made += 1
        context = FakeContext(self, first=self.made == 1)
        self.contexts.add(context)
        return context


class FakeContext:
    def __init__(self, engine: FakeEngine, *, first: bool) -> None:
        self.engine: FakeEngine = engine
        self.gpu = engine.gpu
        self.active_optimization_profile = 0 if first else -1
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._block: tuple[int, int] | None = None
        self._ran: dict[str, Shape] | None = None
        weakref.finalize(self, engine.gpu.calls.append, "drop context")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.gpu.step("set profile")
        self._on(stream_handle)
        self.active_optimization_profile = profile_index
        self._shapes = {}
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self.gpu.step("set shape")
        assert self.active_optimization_profile >= 0, "a profile must be chosen first"
        low, _, high = self.engine.profiles[self.active_optimization_profile][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        self.gpu.step("infer shapes")
        return [name for name in self._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> FakeDims:
        return FakeDims({**self._shapes, **self.engine.outputs(self._shapes)}[name])

    def update_device_memory_size_for_shapes(self) -> int:
        self.gpu.step("size for shapes")
        return self.engine.bytes_for(self._shapes)

    def set_device_memory(self, memory: int, size: int) -> None:
        self.gpu.step("set device memory")
        assert memory % ALIGNMENT == 0
        self._block = memory, size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.gpu.step("set address")
        assert name in self.engine.tensors and memory % ALIGNMENT == 0 and memory != 0
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.gpu.step("enqueue")
        stream = self._on(stream_handle)
        engine, shapes, addresses = self.engine, dict(self._shapes), dict(self._addresses)
        assert addresses.keys() == engine.tensors.keys()
        assert self._block is not None and self._block[1] >= engine.bytes_for(shapes)
        if engine.out_of_memory(shapes):
            LOG.error("[defaultAllocator.cpp::allocate] CUDA out of memory")
            return False
        if stream.capturing is not None and (not engine.captures or self._ran != shapes):
            LOG.error("operation not permitted when stream is capturing")
            return False
        if stream.capturing is None:
            engine.enqueued.append((stream_handle, shapes))
        self._ran = shapes
        block, need = self._block[0], engine.bytes_for(shapes)

        def work() -> None:
            scratch = engine.gpu.at(block, need)
            scratch[:] = 0x5C
            inputs = {name: _read(engine, name, addresses[name], shapes[name]) for name in shapes}
            for name, array in engine.compute(inputs).items():
                engine.gpu.at(addresses[name], array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        stream.give(work, block)
        return True

    @property
    def _inputs(self) -> list[str]:
        return [n for n, (mode, _) in self.engine.tensors.items() if mode is TensorIOMode.INPUT]

    def _on(self, handle: int) -> FakeStream:
        assert handle != 0, "the default stream"
        return FakeStream.by_handle[handle]


def _read(engine: FakeEngine, name: str, address: int, shape: Shape) -> Array:
    dtype = np.dtype(NUMPY[engine.tensors[name][1]])
    size = math.prod(shape) * dtype.itemsize
    return engine.gpu.at(address, size).copy().view(dtype).reshape(shape)
