"""FP16 graphs -> float32 arithmetic on the same weights, which stay stored in FP16.

The golden features of a bundle are those of float32 arithmetic, which all engines agree on. FP16
arithmetic is no reference: engines round it in places of their own (ONNX Runtime's CPU provider
nearly nowhere). A graph for FP16 engines is made from the float32 one, behind its own gate.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


class ComputeInFloat32(InPlacePass):
    """Cast FP16 weights where they are used, and let everything else be float32."""

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in model.graph.all_nodes():
            modified |= _widen_attributes(node)
            for value in node.outputs:
                modified |= _widen(value)
        for graph in model.graphs():
            for value in graph.inputs:
                modified |= _widen(value)
            for value in list(graph.initializers.values()):
                if value.const_value is not None and value.const_value.dtype == _HALF:
                    value.dtype = _HALF
                    _cast_uses(graph, value)
                    modified = True
        return PassResult(model, modified=modified)


class WidenStoredWeights(InPlacePass):
    """Undo the storage: FP16 weights that are cast to float32 become float32 weights."""

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            stored = node.inputs[0] if node.op_type == "Cast" else None
            if stored is None or not stored.is_initializer() or node.outputs[0].dtype != _FLOAT:
                continue
            if stored.dtype != _HALF or stored.const_value is None:
                continue
            name = node.outputs[0].name
            tensor = ir.tensor(stored.const_value.numpy().astype(np.float32), name=name)
            wide = ir.Value(
                name=name, shape=stored.shape, type=ir.TensorType(_FLOAT), const_value=tensor
            )
            ir.convenience.replace_all_uses_with(node.outputs[0], wide)
            model.graph.remove(node, safe=True)
            model.graph.register_initializer(wide)
            modified = True
        return PassResult(model, modified=modified)


def _widen(value: ir.Value) -> bool:
    if value.dtype != _HALF:
        return False
    value.dtype = _FLOAT
    return True


def _widen_attributes(node: ir.Node) -> bool:
    found = False
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.INT and name in _TYPE_ATTRIBUTES:
            if attribute.as_int() == _HALF:
                node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))
                found = True
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
            wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
            node.attributes[name] = ir.AttrTensor(name, wide)
            found = True
    return found


def _cast_uses(graph: ir.Graph, weights: ir.Value) -> None:
    uses = tuple(weights.uses())
    if not uses:
        return
    cast = ir.node("Cast", [weights], attributes={"to": _FLOAT})
    cast.outputs[0].name = f"{weights.name}_float32"
    cast.outputs[0].dtype = _FLOAT
    graph.insert_before(graph[0], cast)
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])
