"""The operators of a graph, and which of them TensorRT's ONNX parsers cannot take.

The facts are those of onnx-tensorrt's list of operators and importers at release 10.1 (the
oldest parser that we meet, JetPack 6's, is 10.3), and what the parser of TensorRT for RTX 1.7.1
answered when it was given each. Where that compiler is installed it is asked about whole graphs
(:mod:`pathgene_rt.export.compiled`); this is for where it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
"""TensorRT has them with restrictions and never fuses across them; our heads do without."""

_LACKING_NAMES = """
AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow
CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT Det DynamicQuantizeLinear
HammingWindow HannWindow ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix
Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement
QLinearConv QLinearMatMul RegexFullMatch STFT SequenceAt SequenceConstruct SequenceEmpty
SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss
SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique
"""
_LACKING = frozenset(_LACKING_NAMES.split())

_PLUGINS = frozenset({"DeformConv", "NonZero", "RoiAlign"})
"""Plug-ins in TensorRT, which TensorRT for RTX comes without."""

_PICKS = frozenset({"ArgMax", "ArgMin"})


def operators(model: bytes) -> Counter[str]:
    """How often each operator occurs in the graph, its subgraphs and its functions."""
    return Counter(node.op_type for node in _nodes(onnx.load_from_string(model)))


def tensorrt_warnings(name: str, model: bytes) -> tuple[str, ...]:
    """One line if the graph holds what TensorRT cannot take: it will run on the other engines."""
    parsed = onnx.load_from_string(model)
    found = {_refusal(node) for node in _nodes(parsed)} | set(_misused_bytes(parsed.graph))
    found |= set(_flat_picks(parsed))
    lacking = {
        "TensorRT does not take; it runs": found,
        "TensorRT for RTX does not take; there it runs": set(map(_plugin, _nodes(parsed))),
    }
    return tuple(
        f"{name} uses {', '.join(sorted(refused - {''}))}, which {who} elsewhere"
        for who, refused in lacking.items()
        if refused - {""}
    )


def _refusal(node: onnx.NodeProto) -> str:
    if node.op_type in _LACKING | CONTROL_FLOW:
        return str(node.op_type)
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain}.{node.op_type}"
    return "ScatterND with a reduction" if node.op_type == "ScatterND" and _reduces(node) else ""


def _plugin(node: onnx.NodeProto) -> str:
    """What of ``node`` TensorRT has as a plug-in, or an empty string."""
    if node.op_type == "ScatterElements" and _reduces(node):
        return "ScatterElements with a reduction"
    return str(node.op_type) if node.op_type in _PLUGINS else ""


def _reduces(node: onnx.NodeProto) -> bool:
    return any(item.name == "reduction" and item.s != b"none" for item in node.attribute)


def _flat_picks(model: onnx.ModelProto) -> Iterator[str]:
    """Picks from a tensor of one axis, for which both want two."""
    picks = [node for node in model.graph.node if node.op_type in _PICKS]
    if not picks:
        return
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    yield from (f"{node.op_type} of one axis" for node in picks if ranks.get(node.input[0]) == 1)


def _misused_bytes(graph: onnx.GraphProto) -> Iterator[str]:
    """What takes an input of bytes and is no cast; not even moving them will do
    (NVIDIA/TensorRT#3985)."""
    inputs = {
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in graph.node:
        if node.op_type != "Cast" and inputs.intersection(node.input):
            yield f"{node.op_type} of bytes"


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in model.functions:
        yield from _within(function.node)
    yield from _within(model.graph.node)


def _within(nodes: object) -> Iterator[onnx.NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]  # protobuf's repeated field has no stub
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _within(attribute.g.node)
