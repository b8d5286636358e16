"""Understands a model wholly or refuses it; what engines get is written anew from that.

Engines parse ONNX with a lenient parser, and follow external data to any file that the process can
read. They never see a bundle's bytes: those are parsed by a schema that knows nothing of other
files, functions or loops (:mod:`~pathgene_rt.bundle.onnx_schema`), checked, and serialised again.
The runtime depends on neither `onnx` nor `protobuf`: the latter's parser takes what must be refused
here, and would hold the weights once more.
"""

from __future__ import annotations

import math

from pathgene_rt.bundle.onnx_schema import (
    ATTRIBUTE_TYPES,
    ELSEWHERE,
    OPERATORS,
    SCHEMA,
    TENSOR_TYPES,
)
from pathgene_rt.bundle.protobuf import Message, RefusedError, WireError, parse, serialise
from pathgene_rt.errors import BundleError

MAX_BYTES = (1 << 31) - 1
"""Of one graph: protobuf's own limit."""

MAX_DIMENSIONS = 12
MAX_ELEMENTS = 1 << 33
_ONNX_DOMAINS = ("", "ai.onnx")
_IR_VERSIONS = range(3, 14)
_OPSETS = range(7, 27)


def require_understood(model: bytes, name: str) -> None:
    """Raise :class:`BundleError` unless all of ``model`` is ONNX that bundles may hold."""
    understood(model, name)


def rewritten(model: bytes, name: str) -> bytes:
    """``model`` for an engine: the same graph in the canonical form, without notes and metadata.

    The same model gives the same bytes. Raises :class:`BundleError` as
    :func:`require_understood` does.
    """
    return b"".join(serialise(understood(model, name)))


def understood(model: bytes, name: str) -> Message:
    """The ModelProto ``model``, checked; its tensors are views of ``model``.

    Raises :class:`BundleError` with ``name`` and what is wrong.
    """
    try:
        if len(model) > MAX_BYTES:
            raise WireError(f"it has {len(model)} bytes")
        parsed = parse(memoryview(model), "ModelProto", SCHEMA)
        _check_model(parsed)
    except RefusedError as error:
        raise BundleError(f"{name} {error}, which a bundle must not; export it again") from error
    except WireError as error:
        raise BundleError(f"{name} is not a valid ONNX file ({error}); export it again") from error
    return parsed


def output_sizes(model: Message) -> dict[str, tuple[int | None, ...] | None]:
    """Shapes by name that an understood model states for its outputs: None for an axis of any size,
    and for an output of unknown shape.
    """
    (graph,) = model.messages("graph")
    return {output.text("name"): _stated_shape(output) for output in graph.messages("output")}


def _stated_shape(value: Message) -> tuple[int | None, ...] | None:
    for kind in value.messages("type"):
        for tensor in kind.messages("tensor_type"):
            for shape in tensor.messages("shape"):
                return tuple(
                    axis.integer("dim_value") if axis.has("dim_value") else None
                    for axis in shape.messages("dim")
                )
    return None


def _check_model(model: Message) -> None:
    if not model.has("graph"):
        raise WireError("no graph")
    if model.integer("ir_version") not in _IR_VERSIONS:
        raise WireError(f"IR version {model.integer('ir_version')}")
    # Others go unused: no node may be of another domain.
    imports = [e for e in model.messages("opset_import") if e.text("domain") in _ONNX_DOMAINS]
    if len(imports) != 1 or imports[0].integer("version") not in _OPSETS:
        raise WireError(f"operator sets {[entry.integer('version') for entry in imports]}")
    model.fields[model.number("opset_import")] = [imports[0]]
    (graph,) = model.messages("graph")
    _check_graph(graph)


def _check_graph(graph: Message) -> None:
    """Names are given once and before they are used: so there is no cycle."""
    known: set[str] = set()
    for value in graph.messages("input"):
        _define(known, value.text("name"))
        _check_value(value)
    initializers: set[str] = set()
    for tensor in graph.messages("initializer"):
        _define(initializers, tensor.text("name"))
        _check_tensor(tensor)
    known |= initializers  # an initializer may be an input's default
    for node in graph.messages("node"):
        _check_node(node)
        for source in node.texts("input"):
            if source and source not in known:
                raise WireError(
                    f"{node.text('op_type')} takes {_shown(source)}, which nothing before it gives"
                )
        for result in node.texts("output"):
            if result:
                _define(known, result)
    for value in graph.messages("output"):
        if value.text("name") not in known:
            raise WireError(f"nothing gives the output {_shown(value.text('name'))}")
        _check_value(value)
    for value in graph.messages("value_info"):
        _check_value(value)


def _define(known: set[str], name: str) -> None:
    if not name or name in known:
        raise WireError(f"the name {_shown(name)} is given more than once or empty")
    known.add(name)


def _check_node(node: Message) -> None:
    operator, domain = node.text("op_type"), node.text("domain")
    if domain not in _ONNX_DOMAINS:
        raise RefusedError(f"has the operator {_shown(operator)} of {_shown(domain)}")
    if operator not in OPERATORS:
        raise RefusedError(f"has the operator {_shown(operator)}")
    names: set[str] = set()
    for attribute in node.messages("attribute"):
        _define(names, attribute.text("name"))
        holder = ATTRIBUTE_TYPES.get(attribute.integer("type"))
        others = [name for name in ATTRIBUTE_TYPES.values() if attribute.has(name)]
        if holder is None or set(others) - {holder}:
            raise WireError(
                f"{_shown(attribute.text('name'))} of {operator} is not of the type that it states"
            )
        for tensor in attribute.messages("t"):
            _check_tensor(tensor)


def _check_tensor(tensor: Message) -> None:
    """The elements that a tensor claims are those that it holds."""
    name = _shown(tensor.text("name"))
    if tensor.integer("data_location"):
        raise RefusedError(ELSEWHERE)
    if tensor.integer("data_type") not in TENSOR_TYPES:
        raise WireError(f"tensor {name} is of the data type {tensor.integer('data_type')}")
    width, typed = TENSOR_TYPES[tensor.integer("data_type")]
    elements = _elements(tensor.ints("dims"), name)
    holders = [
        field
        for field in ("raw_data", *{typed for _, typed in TENSOR_TYPES.values()})
        if tensor.has(field)
    ]
    if len(holders) > 1 or set(holders) - {"raw_data", typed}:
        raise WireError(f"tensor {name} is not held in one field that fits its type")
    stored = sum(len(tensor.data(holder)) / width for holder in holders)
    held = stored + sum(len(tensor.ints(holder)) for holder in holders)
    if held != elements:
        raise WireError(f"tensor {name} claims {elements} elements and holds {held:g}")


def _check_value(value: Message) -> None:
    name = _shown(value.text("name"))
    for kind in value.messages("type"):
        for tensor in kind.messages("tensor_type"):
            if tensor.integer("elem_type") not in TENSOR_TYPES:
                raise WireError(f"{name} is of the data type {tensor.integer('elem_type')}")
    shape = _stated_shape(value)
    _elements([size for size in shape or () if size is not None], name)


def _elements(sizes: list[int], name: str) -> int:
    elements = math.prod(sizes)
    if len(sizes) > MAX_DIMENSIONS or min(sizes, default=0) < 0 or elements > MAX_ELEMENTS:
        raise WireError(f"{name} is of the shape {sizes[: MAX_DIMENSIONS + 1]}")
    return elements


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "...")
