"""Somebody else's ONNX file: opened as data, its weights taken in, computing in float32.

Nothing of it is trusted: weights are read from its own folder only, and operators of a domain that
is not ONNX's are refused, as they would run in one engine alone, or load code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as common_passes
from onnxscript.version_converter import ConvertVersionPass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.foreign.upcast import ComputeInFloat32
from pathgene_rt.export.passes import RemoveProvenance
from pathgene_rt.export.to_onnx import OPSET
from pathgene_rt.files import reason
from pathgene_rt.training.checkpoint import tensors_sha256

MAX_BYTES = (1 << 31) - 1
"""Of one ONNX file, the limit of protobuf; a bundle keeps a graph and its weights in one."""

_ROOM = 16 << 20
"""Of those, what is left for the graph itself and for ours around it."""

_ONNX_DOMAINS = ("", "ai.onnx")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class ForeignGraph:
    """A graph of one image input and one output, its functions inlined and its weights in memory.

    ``input`` and ``output`` are their names in the file ``path``. ``upcast`` says that the file
    computes in FP16, or takes or gives it, which ``model`` does in float32. ``frozen_batch`` is the
    number of images that the file declares, None for any.
    """

    path: Path
    model: ir.Model
    input: str
    output: str
    half_input: bool
    upcast: bool
    frozen_batch: int | None

    @classmethod
    def open(
        cls, path: Path, *, image_px: int, image: str | None = None, features: str | None = None
    ) -> ForeignGraph:
        """Open ``path``; ``image`` and ``features`` name its input and output, None the only one.

        Raises :class:`CheckpointError` if it is no ONNX model; keeps weights outside its folder or
        more than one file can hold; has operators of other domains; or does not take float images
        [n, 3, image_px, image_px].
        """
        model = _load(path)
        _require_standard_operators(model, path)
        _take_in_weights(model, path)
        inputs = [value for value in model.graph.inputs if not value.is_initializer()]
        source = _one_of(inputs, image, "input", path)
        result = _one_of(list(model.graph.outputs), features, "output", path)
        others = [str(value.name) for value in inputs if value is not source]
        if others:
            raise CheckpointError(
                f"{path} also needs {', '.join(others)}; export it with {source.name} alone"
            )
        for value in (source, result):
            if value.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{path}: {value.name} is {value.dtype}, neither float32 nor float16"
                )
        half_input = source.dtype == ir.DataType.FLOAT16
        return cls(
            path=path,
            model=model,
            input=str(source.name),
            output=str(result.name),
            half_input=half_input,
            upcast=ComputeInFloat32()(model).modified,
            frozen_batch=_require_images(source, image_px, path),
        )

    def weights_sha256(self, extra: Mapping[str, object]) -> str:
        """Hash of every tensor that the file holds, of the output taken, and of ``extra``."""
        named = {str(value.name): value.const_value for value in _initializers(self.model)}
        return tensors_sha256(
            (
                (name, str(tensor.dtype), tensor.shape.numpy(), tensor.tobytes())
                for name, tensor in sorted(named.items())
                if tensor is not None
            ),
            {**extra, "output": self.output},
        )

    def in_float32(self) -> bytes | Path:
        """The file, or if it is not of float32 a copy that computes in it."""
        if not self.upcast:
            return self.path
        data: bytes = ir.to_proto(self.model).SerializeToString()
        return data

    def converted(self, sizes: Sequence[int]) -> onnx.ModelProto:
        """The graph in our opset, from its input to its output [n, *sizes] alone, for any number of
        images as far as its nodes allow that.

        Raises :class:`CheckpointError` if a converter is lacking.
        """
        model = self.model
        _convert(model, self.path)
        graph = model.graph
        graph.inputs[:] = [value for value in graph.inputs if value.name == self.input]
        graph.outputs[:] = [value for value in graph.outputs if value.name == self.output]
        # Shapes were inferred for the batch of the file; engines infer them anew.
        for node in graph.all_nodes():
            for value in node.outputs:
                value.shape = None
        graph.outputs[0].shape = ir.Shape(["n", *sizes])
        RemoveProvenance()(model)
        return ir.to_proto(model)


def _convert(model: ir.Model, path: Path) -> None:
    version = model.opset_imports.get("", 0)
    logger = logging.getLogger("onnxscript.version_converter")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it cannot do shows in the version
    try:
        ConvertVersionPass(target_version=OPSET, fallback=True)(model)
    finally:
        logger.setLevel(level)
    if model.opset_imports.get("") != OPSET:
        raise CheckpointError(
            f"{path} is of opset {version}, which cannot be converted to {OPSET}; export it with "
            f"opset_version={OPSET}"
        )


def _load(path: Path) -> ir.Model:
    """The model with functions inlined and all constants as initializers, those of other files not
    read yet."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than an ONNX file can be (2 GiB)")
        # Absolute, as onnx_ir leaves external paths unchecked beside a bare file name.
        model = ir.load(path.absolute(), format="protobuf")
        common_passes.InlinePass()(model)
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    except OSError as error:
        raise CheckpointError(f"cannot read the encoder {path}: {reason(error)}") from error
    except CheckpointError:
        raise
    except Exception as error:
        # Foreign bytes reach protobuf and onnx_ir, which fail in a dozen ways.
        raise CheckpointError(
            f"{path} is no valid ONNX model ({_root(error)}); export it again"
        ) from error
    return model


def _root(error: BaseException) -> str:
    """The first line of what began it: onnx_ir says at each level where it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def _require_standard_operators(model: ir.Model, path: Path) -> None:
    foreign = {
        f"{node.domain}.{node.op_type}"
        for node in model.graph.all_nodes()
        if node.domain not in _ONNX_DOMAINS
    }
    if foreign:
        raise CheckpointError(
            f"{path} uses {', '.join(sorted(foreign))}, which are no ONNX operators; export it "
            "without the optimisations of one runtime, or leave out custom operators"
        )


def _take_in_weights(model: ir.Model, path: Path) -> None:
    """Read weights that lie in files beside ``path``, once it is clear that they fit."""
    values = [value for value in _initializers(model) if value.const_value is not None]
    total = floats = 0
    for value in values:
        tensor = value.const_value
        assert tensor is not None
        total += tensor.nbytes
        floats += tensor.nbytes if tensor.dtype == ir.DataType.FLOAT else 0
        if isinstance(tensor, ir.ExternalTensor):
            _require_beside(tensor, path)
    _require_room(total, total - floats // 2, path)
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor):
            try:
                [value.const_value] = ir.external_data.convert_tensors_from_external(
                    [value.const_value]
                )
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{path}: cannot read {value.name}: {error}") from error


def _require_room(size: int, halved: int, path: Path) -> None:
    """Refuse ``size`` bytes of weights, of which ``halved`` would be left in FP16, if too many."""
    room = MAX_BYTES - _ROOM
    if size <= room:
        return
    if halved <= room:
        advice = f"export it with FP16 weights ({halved / 1e9:.2f} GB)"
    else:
        advice = f"FP16 weights ({halved / 1e9:.2f} GB) do not fit either, take a smaller encoder"
    raise CheckpointError(
        f"{path} has {size / 1e9:.2f} GB of weights, and one ONNX file, as a bundle has it, holds "
        f"{MAX_BYTES / 1e9:.2f} GB; {advice}"
    )


def _require_beside(tensor: ir.ExternalTensor, path: Path) -> None:
    folder = path.absolute().parent
    file = folder / tensor.location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{path} keeps weights in {tensor.location}, outside its own folder; put both files, "
            "not links to them, into one folder"
        )
    if not file.is_file():
        raise CheckpointError(f"{path} keeps weights in {tensor.location}, which is not beside it")
    whole = tensor.length in (None, tensor.nbytes)
    if not whole or not 0 <= (tensor.offset or 0) <= file.stat().st_size - tensor.nbytes:
        raise CheckpointError(
            f"{file} does not hold all {tensor.nbytes} bytes of {tensor.name}; copy it again"
        )
    tensor.base_dir = folder


def _one_of(values: list[ir.Value], name: str | None, kind: str, path: Path) -> ir.Value:
    names = [str(value.name) for value in values]
    if name is None and len(values) == 1:
        return values[0]
    if name is None:
        raise CheckpointError(
            f"{path} has {len(values)} {kind}s ({', '.join(names) or 'none'}); name one with "
            f'{kind} = "..." in the file of --preprocess'
        )
    if name not in names:
        raise CheckpointError(f"{path} has no {kind} {name}; it has {', '.join(names) or 'none'}")
    return values[names.index(name)]


def _require_images(image: ir.Value, image_px: int, path: Path) -> int | None:
    """The batch that the input declares, None for any."""
    sizes = [size if isinstance(size, int) else None for size in image.shape or ()]
    shown = "[" + ", ".join(str(size) for size in image.shape or ()) + "]"
    if len(sizes) != 4 or sizes[1] not in (None, 3):
        raise CheckpointError(
            f"{path}: the input {image.name} {shown} does not take images [n, 3, height, width]; "
            "export the encoder for channels first"
        )
    if any(size not in (None, image_px) for size in sizes[2:]):
        raise CheckpointError(
            f"{path}: the input {image.name} {shown} does not take the {image_px} px that "
            "--preprocess says; set its resize_px or crop_px to the side that the encoder takes"
        )
    return sizes[0]
