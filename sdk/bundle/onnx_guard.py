"""Reads just enough of ONNX's protobuf to refuse a model that points outside itself.

The runtime does not depend on the `onnx` package, and engines would happily follow external data
to any file the process can read. So every tensor of a graph is visited on the wire level
(onnx.proto, field numbers below) and none may say that its data lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from pathgene_rt.errors import BundleError

_MAX_DEPTH = 64

# message -> {field number: message of that field}; fields that hold no tensor are skipped.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14


def require_self_contained(model: bytes, name: str) -> None:
    """Raise :class:`BundleError` unless ``model`` is well-formed ONNX without external data."""
    try:
        found_graph = _visit(memoryview(model), "Model", 0)
    except ValueError as error:
        raise BundleError(f"{name} is not a valid ONNX file ({error}); export it again") from error
    except _ExternalDataError:
        raise BundleError(
            f"{name} keeps tensors in another file, which a bundle must not; export it again"
        ) from None
    if not found_graph:
        raise BundleError(f"{name} is not a valid ONNX file (no graph); export it again")


def output_sizes(model: bytes) -> dict[str, tuple[int | None, ...] | None]:
    """Shapes by name that a well-formed graph states for its outputs: None for an axis of any size,
    and for an output of unknown shape.
    """
    sizes = {}
    for graph in _children(memoryview(model), 7):
        for output in _children(graph, 12):
            name = b"".join(bytes(part) for part in _children(output, 1)).decode(errors="replace")
            shapes = [
                shape
                for kind in _children(output, 2)
                for tensor in _children(kind, 1)
                for shape in _children(tensor, 2)
            ]
            sizes[name] = tuple(_size(axis) for axis in _children(shapes[0], 1)) if shapes else None
    return sizes


def _children(message: memoryview, number: int) -> list[memoryview]:
    return [
        value
        for field, value in _fields(message)
        if field == number and isinstance(value, memoryview)
    ]


def _size(dimension: memoryview) -> int | None:
    """``dim_value`` of a TensorShapeProto.Dimension."""
    return next(
        (value for field, value in _fields(dimension) if field == 1 and isinstance(value, int)),
        None,
    )


class _ExternalDataError(Exception):
    pass


def _visit(data: memoryview, message: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    found_graph = False
    for field, value in _fields(data):
        if message == "Tensor":
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                raise _ExternalDataError
            continue
        child = _FIELDS[message].get(field)
        if child is None:
            continue
        if not isinstance(value, memoryview):
            raise ValueError(f"field {field} of {message} is no message")
        found_graph |= child == "Graph"
        _visit(value, child, depth + 1)
    return found_graph


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield (field number, value) of one message: bytes for length-delimited fields, else int."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        end = position + length
        if end > len(data):
            raise ValueError("a field reaches past the end")
        if wire == 2:
            yield key >> 3, data[position:end]
        position = end


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("the file is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")
