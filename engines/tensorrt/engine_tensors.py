"""What a loaded engine takes: its tensors against the spec, and the profiles it was built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.tensorrt.errors import ForeignPlanError
from pathgene_rt.engines.tensorrt.graph import Shapes
from pathgene_rt.engines.tensorrt.plan import LoadedPlan
from pathgene_rt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

_DTYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FLOAT"}
"""TensorRT's names."""


def check_tensors(loaded: LoadedPlan, spec: ModelSpec) -> None:
    """Raise ForeignPlanError unless the engine has the inputs and outputs of ``spec``, on the
    device."""
    engine, trt = loaded.engine, loaded.library.api
    modes, locations = trt.TensorIOMode, trt.TensorLocation
    found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    for tensors, mode in ((spec.inputs, modes.INPUT), (spec.outputs, modes.OUTPUT)):
        for tensor in tensors:
            name = tensor.name
            if (
                name not in found
                or engine.get_tensor_mode(name) != mode
                or engine.get_tensor_dtype(name).name != _DTYPES[tensor.dtype]
                or engine.get_tensor_location(name) != locations.DEVICE
            ):
                raise ForeignPlanError(
                    f"the engine of {spec.name} has no {mode.name.lower()} {name} of "
                    f"{tensor.dtype} on the device; build it again"
                )
    if len(found) != len(spec.inputs) + len(spec.outputs):
        known = ", ".join(sorted(found))
        raise ForeignPlanError(f"the engine of {spec.name} has other tensors ({known})")


class Profiles:
    """The ranges of input shapes that ``engine`` was built for."""

    def __init__(self, engine: trt.ICudaEngine, spec: ModelSpec) -> None:
        self._spec = spec
        self._ranges: list[dict[str, tuple[tuple[int, ...], ...]]] = []
        for index in range(engine.num_optimization_profiles):
            ranges = {}
            for tensor in spec.inputs:
                ends = engine.get_tensor_profile_shape(tensor.name, index)
                ranges[tensor.name] = tuple(tuple(shape) for shape in ends)
            self._ranges.append(ranges)

    def of(self, shapes: Shapes) -> int:
        """The first profile that holds ``shapes``. Raises EngineError, which names all of them."""
        for index, ranges in enumerate(self._ranges):
            if all(_within(shape, ranges[name]) for name, shape in shapes):
                return index
        given = ", ".join(f"{name} {shape_text(shape)}" for name, shape in shapes)
        known = "; ".join(
            ", ".join(
                f"{name} {shape_text(r[0])} to {shape_text(r[-1])}" for name, r in ranges.items()
            )
            for ranges in self._ranges
        )
        raise EngineError(
            f"tensorrt cannot run {self._spec.name} on {given}: its profiles take {known}; use "
            "--engine onnxruntime-cuda or openvino"
        )

    @property
    def most(self) -> int:
        """The longest first axis of the first input: of an encoder, tiles of a call."""
        name = self._spec.inputs[0].name
        return max(ranges[name][-1][0] for ranges in self._ranges)


def _within(shape: tuple[int, ...], ranges: tuple[tuple[int, ...], ...]) -> bool:
    lowest, _, highest = ranges
    return len(shape) == len(lowest) and all(
        low <= size <= high for low, size, high in zip(lowest, shape, highest, strict=True)
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """E.g. "64x256x256x3"."""
    return "x".join(map(str, shape))
