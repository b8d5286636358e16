"""A float32 graph -> the same with float16 inside and float32 at its inputs and outputs.

Precision belongs to nodes: one that is not kept computes in float16, and casts stand where the two
meet. ``onnxruntime.transformers.float16`` (of 1.31.1), which does the same, is not used: between
two kept nodes it rounds to float16 and back, a value that two kept nodes read is cast twice under
one name (the checker refuses such a graph), and values beyond half's range are clamped unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import passes
from onnx_ir.passes import common

from pathgene_rt.export.foreign.upcast import WidenStoredWeights

_MOVER_NAMES = """
Abs Clip Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Max
MaxPool Min Neg Pad ReduceMax ReduceMin Relu Reshape ScatterElements ScatterND Slice SpaceToDepth
Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""
_MOVERS = frozenset(_MOVER_NAMES.split())
"""Operators whose results are among their inputs, but for the sign: they round nothing. Scatter
belongs to them without a reduction."""

_TYPELESS = frozenset({"Shape", "Size"})
"""Operators that take a tensor of any type and do not read its values."""

_TIDY = passes.Sequential(
    common.RemoveUnusedNodesPass(), common.TopologicalSortPass(), common.NameFixPass()
)


def load(model: bytes) -> ir.Model:
    """``model`` with known types and shapes, unique names of nodes, constants lifted, and weights
    that are only stored in float16 as float32."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), data_prop=True)
    loaded = ir.from_proto(proto)
    passes.Sequential(
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        WidenStoredWeights(),
        common.NameFixPass(),
    )(loaded)
    return loaded


def serialise(model: ir.Model) -> bytes:
    """A self-contained ONNX file, the same bytes for the same model."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def obstacle(model: ir.Model) -> str:
    """Why ``model`` cannot be converted, or an empty string."""
    if next(iter(model.graph.subgraphs()), None) is not None:
        return "it holds control flow"
    types = {value.dtype for value in _values(model) if value.uses()}
    if ir.DataType.FLOAT16 in types:
        return "it computes in float16 already"
    if types & {ir.DataType.BFLOAT16, ir.DataType.DOUBLE}:
        return "it does not compute in float32 throughout"
    if None in types:
        return "the types of its tensors cannot be inferred"
    return ""


def is_mover(node: ir.Node) -> bool:
    """Whether ``node`` rounds nothing, so that it belongs to the precision around it."""
    reduction = node.attributes.get("reduction")
    return node.op_type in _MOVERS and (reduction is None or reduction.as_string() == "none")


def floats(values: Collection[ir.Value | None]) -> list[ir.Value]:
    """Those of ``values`` that are float32."""
    return [value for value in values if value is not None and value.dtype == ir.DataType.FLOAT]


def computing(model: ir.Model) -> list[ir.Node]:
    """The nodes that round: they give float32 and are no movers."""
    return [node for node in model.graph if floats(node.outputs) and not is_mover(node)]


def in_float16(graph: bytes, kept: Collection[str]) -> bytes:
    """``graph`` with its nodes in float16, but those that :func:`load` names ``kept``.

    ``kept`` must name what :func:`~pathgene_rt.export.float16.rules.kept_by_rule` names.
    """
    model = load(graph)
    half = _half_nodes(model, kept)
    casts = _Casts(model.graph)
    for node in list(model.graph):
        if node.op_type in _TYPELESS:
            continue
        wanted = ir.DataType.FLOAT16 if node in half else ir.DataType.FLOAT
        for position, value in enumerate(node.inputs):
            if value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                node.replace_input_with(position, casts.of(value, wanted))
        if node in half:
            for value in floats(node.outputs):
                value.type = ir.TensorType(ir.DataType.FLOAT16)
    _TIDY(model)
    return serialise(model)


def rounding_in_float32(half: bytes) -> bytes:
    """A float32 graph that rounds as the graph ``half`` (of :func:`in_float16`) does: what computes
    in float16 computes in float32, and its result is cast to float16 and back.

    ONNX Runtime's CPU provider has no float16 kernels; it computes in float32, and takes out again
    the casts that it puts in, so that running a float16 graph there rounds almost nowhere (measured
    with 1.31.1). Casts that belong to the graph it leaves alone.
    """
    model = load(half)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT16 and value.const_value is not None:
            weights = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(weights, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(model.graph):
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT16:
                continue
            rounded = value
            if node.op_type != "Cast":
                value.type = ir.TensorType(ir.DataType.FLOAT)
                if is_mover(node):
                    continue
                rounded = _cast(model.graph, value, ir.DataType.FLOAT16)
            widened = _cast(model.graph, rounded, ir.DataType.FLOAT)
            for use in tuple(value.uses()):
                if use.node not in (rounded.producer(), widened.producer()):
                    use.node.replace_input_with(use.idx, widened)
    _TIDY(model)
    return serialise(model)


class _Casts:
    """One cast of a value, whoever reads it; weights are stored in the type they are read in."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value``, or what stands for it in ``dtype``."""
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self._known:
            make = _cast if value.const_value is None else _stored
            self._known[key] = make(self._graph, value, dtype)
        return self._known[key]


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": dtype})
    (cast,) = node.outputs
    cast.name, cast.type, cast.shape = _name(value, dtype), ir.TensorType(dtype), value.shape
    graph.append(node)
    return cast


def _stored(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    assert value.const_value is not None
    name = _name(value, dtype)
    weights = ir.tensor(value.const_value.numpy().astype(dtype.numpy()), name=name)
    copy = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=weights)
    graph.register_initializer(copy)
    return copy


def _name(value: ir.Value, dtype: ir.DataType) -> str:
    return f"{value.name}_{dtype.name.lower()}"


def _half_nodes(model: ir.Model, kept: Collection[str]) -> set[ir.Node]:
    """The nodes that compute in float16: those not kept, and the movers beside them.

    A mover computes in float32 if that saves a rounding: its input is float32, and a node that
    reads its output, or another mover's of it, takes float32.
    """
    nodes = [node for node in model.graph if floats(node.inputs) and floats(node.outputs)]
    half = {node for node in nodes if not is_mover(node) and node.name not in kept}
    free = {node for node in model.graph if is_mover(node) and node.name not in kept}
    given = set(model.graph.inputs)
    for node in model.graph:
        if not given.isdisjoint(node.inputs) if node in free else node not in half:
            given.update(node.outputs)
    wanted: set[ir.Value | None] = set(model.graph.outputs)
    for node in reversed(model.graph):
        if node in free and (given.isdisjoint(node.outputs) or wanted.isdisjoint(node.outputs)):
            half.add(node)
        elif node not in half and node.op_type not in _TYPELESS:
            wanted.update(node.inputs)
    return half


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs
