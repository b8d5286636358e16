"""What one tile costs in an exported encoder: operations, and values read or written."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx


@dataclass(frozen=True)
class GraphCost:
    """``gflop`` are two operations a multiply-add, over all matrix products and convolutions.

    ``activations`` are the values that these read and write, each once, weights aside: what is left
    to move when everything between them is fused into them.
    """

    gflop: float
    activations: int


def graph_cost(model: bytes) -> GraphCost:
    """Of a batch of one through the ONNX file ``model``."""
    graph = onnx.load_from_string(model).graph
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph), data_prop=True)
    weights = {item.name for item in graph.initializer}
    shapes = {item.name: list(item.dims) for item in graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    products = activations = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            products += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Conv":
            products += prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
        else:
            continue
        moved = [name for name in (*node.input[:2], node.output[0]) if name not in weights]
        activations += sum(prod(shapes[name]) for name in moved)
    return GraphCost(2e-9 * products, activations)
