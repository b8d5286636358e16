"""A model folder of WSInfer-MIL (SBU-BMI/wsinfer-mil) as a head: its graph under our contract.

The folder holds ``config.json`` (spec_version, num_classes, class_names, feature_extractor,
patch_size_um) and ``model.onnx``, which takes features [n, D] or [1, n, D] and gives ``logits`` and
mostly ``attention``. The graph is kept as it is; a few nodes around it rename and reshape.
Attention that is not normalised over the tiles (CLAM gives scores) gets a softmax. The TorchScript
file of the folder is code and is never opened.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.bundle import head_file
from pathgene_rt.bundle.onnx_guard import require_understood
from pathgene_rt.bundle.spec import HeadSpec, Preprocess, Task
from pathgene_rt.errors import BundleError, CheckpointError
from pathgene_rt.export.check import (
    Array,
    Inputs,
    check_graph,
    compare_head,
    open_graph,
    require_passed,
)
from pathgene_rt.export.encoder import ExportedEncoder
from pathgene_rt.export.golden import golden_coords
from pathgene_rt.export.head import ExportedHead
from pathgene_rt.export.head_spec import head_model_spec, stated_task
from pathgene_rt.export.operators import tensorrt_warnings
from pathgene_rt.export.request import WSINFER_MIL, HeadRequest
from pathgene_rt.files import reason, sha256
from pathgene_rt.geometry import Float32Array, Int64Array

_PREFIX = "wsinfer_mil/"
_PROBE_TILES = 37
"""A number of tiles that no other axis of a head is likely to have."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))
class WSInferMILConfig:
    """The entries of ``config.json`` that matter here."""

    num_classes: int = Field(ge=1)
    class_names: tuple[str, ...]
    feature_extractor: str
    patch_size_um: float = Field(gt=0)


def adopt_head(request: HeadRequest, encoder: ExportedEncoder) -> ExportedHead:
    """The head of the model folder ``request.path`` for the features of ``encoder``.

    Raises :class:`CheckpointError` if the folder is incomplete, of another extractor or scale, or
    its graph cannot be brought under the head contract, and :class:`VerificationError` if the graph
    then differs from the one in the folder.
    """
    folder, name = request.path, request.head_name
    config = _read_config(folder / "config.json")
    assert encoder.spec.preprocess is not None  # every exported encoder has one
    _require_same_features(folder, config, encoder.spec.architecture, encoder.spec.preprocess)
    published = _Published.open(folder / "model.onnx", encoder.feature_dim)
    if published.n_classes != config.num_classes:
        raise CheckpointError(
            f"{folder}: model.onnx gives {published.n_classes} logits, config.json says "
            f"{config.num_classes} classes"
        )
    graph = published.under_contract()
    check_graph(f"head {name}", graph)
    features, coords = encoder.features, golden_coords(len(encoder.features))
    comparisons = compare_head(name, graph, published.reference, features, coords)
    require_passed(comparisons)
    inputs, expected = published.reference(features, coords)
    model = head_model_spec(
        name,
        graph,
        architecture=WSINFER_MIL,
        inputs=("features",),
        in_dim=encoder.feature_dim,
        expected=expected,
        classes=request.classes or config.class_names,
        activation=request.activation or ("softmax" if config.num_classes > 1 else "sigmoid"),
        weights_sha256=sha256(published.graph),
    )
    return ExportedHead(
        spec=HeadSpec(
            model=model, file=head_file(name), task=stated_task(request, Task(kind="other"))
        ),
        graph=graph,
        golden={"coords": coords, **inputs, **expected},
        comparisons=tuple(comparisons),
        warnings=tensorrt_warnings(f"head {name}", graph),
    )


def _read_config(path: Path) -> WSInferMILConfig:
    try:
        config = TypeAdapter(WSInferMILConfig).validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {reason(error)}; give a WSInfer-MIL folder with config.json and "
            "model.onnx"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: {place} does not fit: {first['msg']}") from error
    if len(config.class_names) != config.num_classes:
        raise CheckpointError(
            f"{path} names {len(config.class_names)} classes for num_classes = {config.num_classes}"
        )
    return config


def _require_same_features(
    folder: Path, config: WSInferMILConfig, architecture: str, preprocess: Preprocess
) -> None:
    if config.feature_extractor.casefold() != architecture.casefold():
        raise CheckpointError(
            f"{folder} takes features of {config.feature_extractor}, the bundle's encoder is "
            f"{architecture}; export it with that encoder"
        )
    ours = preprocess.tile_px * preprocess.mpp
    if abs(ours / config.patch_size_um - 1) > preprocess.mpp_tolerance:
        raise CheckpointError(
            f"{folder} was trained on tiles of {config.patch_size_um:g} um, the bundle's have "
            f"{ours:g} um; set preprocess.mpp = {config.patch_size_um / preprocess.tile_px:g}"
        )


@dataclass(frozen=True)
class _Attention:
    """The published attention: which axis is the tiles', how many values each has, and whether
    they are normalised over the tiles."""

    axis: int
    columns: int
    normalised: bool

    @classmethod
    def of(cls, sample: Array, path: Path) -> _Attention:
        """What a graph's attention for ``_PROBE_TILES`` tiles shows."""
        axes = [axis for axis, size in enumerate(sample.shape) if size == _PROBE_TILES]
        if len(axes) != 1 or sum(size > 1 for size in sample.shape) > 2:
            raise CheckpointError(
                f"{path} gives attention of shape {list(sample.shape)} for {_PROBE_TILES} tiles; "
                "it must be one value, or one a class, for each tile"
            )
        normalised = bool((sample >= 0).all()) and np.allclose(sample.sum(axis=axes[0]), 1, 0, 1e-3)
        return cls(axes[0], sample.size // _PROBE_TILES, normalised)


class _Published:
    """The graph of the folder, and what a bag of random features has shown of its outputs."""

    def __init__(self, graph: bytes, path: Path, width: int) -> None:
        self.graph = graph
        self.width = width
        self.model = onnx.load_from_string(graph)
        self.source, self.stacked = _only_input(self.model, path, width)
        self._run = open_graph(graph)
        random = np.random.default_rng(0)
        sample = self.outputs(random.standard_normal((_PROBE_TILES, width), dtype=np.float32))
        if "logits" not in sample:
            raise CheckpointError(f"{path} has no output logits; it has {', '.join(sample)}")
        self.n_classes = sample["logits"].size
        self.attention = _Attention.of(sample["attention"], path) if "attention" in sample else None

    @classmethod
    def open(cls, path: Path, width: int) -> _Published:
        try:
            graph = path.read_bytes()
            require_understood(graph, str(path))
        except OSError as error:
            raise CheckpointError(
                f"cannot read {path}: {reason(error)}; a folder with a TorchScript file alone "
                "cannot be taken, export the model to ONNX first"
            ) from error
        except BundleError as error:
            raise CheckpointError(str(error)) from error
        return cls(graph, path, width)

    def outputs(self, features: Float32Array) -> dict[str, Array]:
        return self._run({self.source: features[None] if self.stacked else features})

    def reference(self, features: Float32Array, _: Int64Array) -> tuple[Inputs, Inputs]:
        """Inputs and outputs of the published graph, in the shapes of the head contract."""
        published = self.outputs(features)
        results: dict[str, Array] = {"logits": published["logits"].reshape(-1)}
        if self.attention is not None:
            first = np.moveaxis(published["attention"], self.attention.axis, 0)
            scores = first.reshape(len(features), self.attention.columns)
            if not self.attention.normalised:
                scores = np.exp(scores - scores.max(axis=0))
                scores /= scores.sum(axis=0)
            results["attention"] = np.asarray(scores)
        return {"features": features}, results

    def under_contract(self) -> bytes:
        """The graph with the input features [n, D], the outputs logits [classes] and attention
        [n, k]. Its own names get a prefix, so that ours are free."""
        model = compose.add_prefix(self.model, _PREFIX)
        source = f"{_PREFIX}{self.source}"
        if self.stacked:
            before = [_ints("bag_axis", [0])]
            before += [helper.make_node("Unsqueeze", ["features", "bag_axis"], [source])]
        else:
            before = [helper.make_node("Identity", ["features"], [source])]
        after = [
            _ints("classes", [self.n_classes]),
            helper.make_node("Reshape", [f"{_PREFIX}logits", "classes"], ["logits"]),
        ]
        outputs = [_value("logits", [self.n_classes])]
        if self.attention is not None:
            after += self._attention_nodes(self.attention)
            outputs.append(_value("attention", ["n", self.attention.columns]))
        nodes = [*before, *model.graph.node, *after]
        for field in (model.graph.node, model.graph.input, model.graph.output):
            del field[:]
        del model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.input.append(_value("features", ["n", self.width]))
        model.graph.output.extend(outputs)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _attention_nodes(self, attention: _Attention) -> list[onnx.NodeProto]:
        rank = len(self.outputs(np.zeros((1, self.width), np.float32))["attention"].shape)
        order = [attention.axis, *(axis for axis in range(rank) if axis != attention.axis)]
        last = "attention" if attention.normalised else "attention_scores"
        nodes = [
            helper.make_node("Transpose", [f"{_PREFIX}attention"], ["tiles_first"], perm=order),
            _ints("tiles_by_columns", [-1, attention.columns]),
            helper.make_node("Reshape", ["tiles_first", "tiles_by_columns"], [last]),
        ]
        if not attention.normalised:
            nodes.append(helper.make_node("Softmax", [last], ["attention"], axis=0))
        return nodes


def _only_input(model: onnx.ModelProto, path: Path, width: int) -> tuple[str, bool]:
    """The name of the one input, and whether it is [1, n, D] rather than [n, D]."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise CheckpointError(f"{path} has {len(inputs)} inputs; a head takes one, the features")
    tensor = inputs[0].type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) not in (2, 3):
        raise CheckpointError(f"{path} must take float32 features [n, D] or [1, n, D]")
    if shape[-1] not in ("", 0, width) and not isinstance(shape[-1], str):
        raise CheckpointError(
            f"{path} takes {shape[-1]} features a tile, the encoder gives {width}"
        )
    if isinstance(shape[-2], int) and shape[-2] > 0:
        raise CheckpointError(
            f"{path} takes exactly {shape[-2]} tiles; export it with a dynamic number of tiles"
        )
    return inputs[0].name, len(shape) == 3


def _ints(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)


def _value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
