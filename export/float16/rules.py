"""Which nodes of a graph stay in float32 for what they do, whatever their values are.

What their values ask for is measured (:mod:`pathgene_rt.export.float16.ranges`), and what the
outputs ask for is tried (:mod:`pathgene_rt.export.float16.gate`).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from pathgene_rt.export.float16.mixed_precision import computing, floats, is_mover

_SUMMING_NAMES = """
CumSum Einsum Exp GlobalAveragePool GroupNormalization InstanceNormalization LayerNormalization Log
LpNormalization Pow RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMean ReduceProd ReduceSum ReduceSumSquare ScatterElements ScatterND Sqrt
"""
_SUMMING = frozenset(_SUMMING_NAMES.split())
"""Sums over axes, and what normalisations are spelled out in. TensorRT 11 takes no other precision
for a LayerNormalization's statistics than that of its input. Scatters without sums are movers."""

_ROUNDING = frozenset({"Ceil", "Floor", "Round"})
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Sub"})
_UNREAD = frozenset({"Shape", "Size"})

Reasons = dict[str, str]
"""By the name of a node, why it stays in float32."""


def kept_by_rule(model: ir.Model) -> Reasons:
    """The nodes of ``model`` to keep, and why; it comes from
    :func:`~pathgene_rt.export.float16.mixed_precision.load`.
    """
    nodes = computing(model)
    begun = [node for node in nodes if not floats(node.inputs)]
    rounding = _before([node for node in nodes if node.op_type in _ROUNDING])
    rules: tuple[tuple[str, Iterable[ir.Node]], ...] = (
        ("no float16 form", [node for node in nodes if not _takes_float16(node, model)]),
        ("integers", begun),
        ("pixels", rounding | _scaling({*begun, *rounding})),
        ("result", _last_layers(model.graph.outputs)),
        ("decision", _before([node for node in model.graph if _decides(node)])),
        ("sum", [node for node in nodes if node.op_type in _SUMMING or _spans_bag(node)]),
        ("iteration", _iterating({node for node in nodes if _multiplies_squares(node)})),
    )
    computed = set(nodes)
    reasons: Reasons = {}
    for reason, found in rules:
        for node in found:
            if node in computed and node.name is not None:
                reasons.setdefault(node.name, reason)
    return reasons


def _takes_float16(node: ir.Node, model: ir.Model) -> bool:
    """Whether the operator is defined for float16 wherever ``node`` has float32."""
    try:
        schema = onnx.defs.get_schema(node.op_type, model.opset_imports[node.domain], node.domain)
    except onnx.defs.SchemaError:
        return False
    types = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for position, value in enumerate(values):
            formal = formals[min(position, len(formals) - 1)]  # the last may stand for many
            allowed = types.get(formal.type_str, [formal.type_str])
            if floats([value]) and "tensor(float16)" not in allowed:
                return False
    return True


def _decides(node: ir.Node) -> bool:
    """Whether the numbers that ``node`` reads choose: a rank, a comparison, an index.

    That one is equal to zero guards a division; rounding does not turn it.
    """
    read = floats(node.inputs)
    if not read or node.op_type in _UNREAD:
        return False
    if node.op_type == "Equal":
        return not any(_is_zero(value) for value in read)
    return any(value.uses() and not floats([value]) for value in node.outputs)


def _is_zero(value: ir.Value) -> bool:
    return value.const_value is not None and not value.const_value.numpy().any()


def _spans_bag(node: ir.Node) -> bool:
    """Whether ``node`` sums over an axis of any length: a softmax's, or a product's inner one."""
    if node.op_type in ("Softmax", "LogSoftmax"):
        return not isinstance(_size(node.inputs[0], _attribute(node, "axis", -1)), int)
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    left, right = node.inputs[:2]
    sizes = (
        _size(left, -2 if _attribute(node, "transA", 0) else -1),
        _size(right, -1 if _attribute(node, "transB", 0) else -2),
    )
    return not any(isinstance(size, int) for size in sizes)


def _iterating(squares: set[ir.Node]) -> set[ir.Node]:
    """Those products of ``squares`` that take what another one gave, and what lies between them:
    iterations such as that towards TransMIL's pseudo-inverse, where errors grow with each step."""
    found: set[ir.Node] = set()
    for product in squares:
        between, sources = {product}, set()
        waiting = list(product.inputs)
        while waiting:
            value = waiting.pop()
            node = value.producer() if value is not None else None
            if node in squares:
                sources.add(node)
            elif node is not None and node not in between and _scales_or_moves(node):
                between.add(node)
                waiting += floats(node.inputs)
        if sources:
            found |= between | sources
    return found


def _scales_or_moves(node: ir.Node) -> bool:
    return node.op_type in _ELEMENTWISE or is_mover(node)


def _multiplies_squares(node: ir.Node) -> bool:
    """Whether ``node`` multiplies computed square matrices of one size."""
    if node.op_type != "MatMul" or any(value.producer() is None for value in floats(node.inputs)):
        return False
    sides = {_size(value, axis) for value in node.inputs for axis in (-1, -2)}
    return len(sides) == 1 and isinstance(sides.pop(), int)


def _size(value: ir.Value | None, axis: int) -> int | None:
    """The length of ``axis`` of ``value``, None if it may be any."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _before(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """``nodes`` and all whose numbers reach them."""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [source for source in map(ir.Value.producer, floats(node.inputs)) if source]
    return found


def computed_by(values: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that give ``values``, and through movers those that compute them."""
    found, waiting = set(), [value.producer() for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            if is_mover(node):
                waiting += [value.producer() for value in floats(node.inputs)]
    return found


def _last_layers(outputs: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that compute ``outputs``, through what only scales and shifts them."""
    found: set[ir.Node] = set()
    waiting = list(outputs)
    while waiting:
        nodes = computed_by([waiting.pop()]) - found
        found |= nodes
        waiting += [value for node in nodes if _scales(node) for value in floats(node.inputs)]
    return found


def _scaling(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """What only scales and shifts by constants behind ``nodes``, through movers."""
    found: set[ir.Node] = set()
    waiting = list(nodes)
    while waiting:
        for value in floats(waiting.pop().outputs):
            for user in value.consumers():
                if user not in found and (_scales(user) or is_mover(user)):
                    found.add(user)
                    waiting.append(user)
    return found


def _scales(node: ir.Node) -> bool:
    """Whether ``node`` scales or shifts its one variable input by a constant."""
    variable = [value for value in node.inputs if value is not None and value.const_value is None]
    return node.op_type in _ELEMENTWISE and len(variable) == 1
