"""Protocol buffers, read strictly by a schema and written anew.

The official runtime is lenient by contract: it takes padded varints, cuts tags of more than 32 bits
short, lets the last of several values win, and keeps or skips what it does not know. Two parsers
that are lenient in different ways read two different messages from the same bytes. Here a message
has one spelling: canonical varints, known fields, of the known wire type, singular ones once. It is
small because nothing else is supported, and it copies no large field until it writes
(https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind = Literal["int", "float", "bytes", "text"]

MAX_TEXT_BYTES = 1 << 16
MAX_VALUES = 1 << 22
"""Of a message and all within it: each costs a microsecond. Bulk data is one value, of bytes."""

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_SIGN = 1 << 63


class WireError(ValueError):
    """Bytes that are no message of the schema, in its one spelling."""


class RefusedError(ValueError):
    """A message in good form that says what it must not; the words go after the file's name."""


@dataclass(frozen=True)
class FieldRule:
    """One field of a message: ``kind`` is a scalar's or the name of a message in the schema.

    ``kept`` fields are written; others are checked for being well-formed and left out. ``refused``
    says why a message with this field is not taken.
    """

    name: str
    kind: str
    repeated: bool = False
    kept: bool = True
    refused: str = ""


Schema: TypeAlias = Mapping[str, Mapping[int, FieldRule]]
Value: TypeAlias = "int | float | str | memoryview | Message"


@dataclass
class Message:
    """A message of ``type``: the values of its kept fields by number, in the order of the bytes."""

    type: str
    schema: Schema = field(repr=False)
    fields: dict[int, list[Value]] = field(default_factory=dict)

    def number(self, name: str) -> int:
        return next(n for n, rule in self.schema[self.type].items() if rule.name == name)

    def has(self, name: str) -> bool:
        return self.number(name) in self.fields

    def values(self, name: str) -> list[Value]:
        return self.fields.get(self.number(name), [])

    def messages(self, name: str) -> list[Message]:
        return [value for value in self.values(name) if isinstance(value, Message)]

    def texts(self, name: str) -> list[str]:
        return [value for value in self.values(name) if isinstance(value, str)]

    def ints(self, name: str) -> list[int]:
        return [value for value in self.values(name) if isinstance(value, int)]

    def text(self, name: str) -> str:
        """Of a singular field; empty where it is not set."""
        return next(iter(self.texts(name)), "")

    def integer(self, name: str) -> int:
        """Of a singular field; 0 where it is not set."""
        return next(iter(self.ints(name)), 0)

    def data(self, name: str) -> memoryview:
        """Of a singular field of bytes; empty where it is not set."""
        return next((v for v in self.values(name) if isinstance(v, memoryview)), memoryview(b""))


def parse(data: memoryview, type_name: str, schema: Schema) -> Message:
    """The message that ``data`` holds.

    Raises WireError for anything that the schema does not say, RefusedError for what it refuses.

    Nothing is copied but text and numbers: fields of bytes are views of ``data``.
    """
    return _Parser(schema).message(data, type_name)


def serialise(message: Message) -> list[bytes | memoryview]:
    """The parts of the message's bytes, in the order of field numbers; join them."""
    parts: list[bytes | memoryview] = []
    rules = message.schema[message.type]
    for number in sorted(message.fields):
        rule = rules[number]
        if not rule.kept:
            continue
        for value in message.fields[number]:
            if isinstance(value, Message):
                inner = serialise(value)
                parts += [_head(number, sum(map(len, inner))), *inner]
            elif isinstance(value, memoryview):
                parts += [_head(number, len(value)), value]
            elif isinstance(value, str):
                encoded = value.encode()
                parts += [_head(number, len(encoded)), encoded]
            elif isinstance(value, float):
                parts.append(_encoded(number << 3 | _FIXED32) + struct.pack("<f", value))
            else:
                parts.append(_encoded(number << 3 | _VARINT) + _encoded(value % (1 << 64)))
    return parts


class _Parser:
    """One pass over the bytes of a message, which counts what it makes of them."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._left = MAX_VALUES

    def message(self, data: memoryview, type_name: str) -> Message:
        message = Message(type_name, self._schema)
        rules = self._schema[type_name]
        position = 0
        while position < len(data):
            tag, position = _varint(data, position)
            if tag >> 32:
                raise WireError(f"a field of {type_name} has a tag of more than 32 bits")
            rule = rules.get(tag >> 3)
            if rule is None:
                raise WireError(f"field {tag >> 3} of {type_name} is not known")
            if rule.refused:
                raise RefusedError(rule.refused)
            where = f"{rule.name} of {type_name}"
            values, position = self._values(data, position, tag & 7, rule, where)
            known = message.fields.setdefault(tag >> 3, [])
            known += values
            self._count(1)
            if not rule.repeated and len(known) != 1:
                raise WireError(f"{where} occurs more than once")
        return message

    def _values(
        self, data: memoryview, position: int, wire: int, rule: FieldRule, where: str
    ) -> tuple[list[Value], int]:
        """The values of one occurrence of a field, several where numbers are packed; its end."""
        if rule.kind == "int" and wire == _VARINT:
            value, position = _varint(data, position)
            return [_signed(value)], position
        if rule.kind == "float" and wire == _FIXED32:
            return list(_floats(_slice(data, position, 4))), position + 4
        number = rule.kind in ("int", "float")
        if wire != _BYTES or (number and not rule.repeated):
            raise WireError(f"{where} is of wire type {wire}")
        length, position = _varint(data, position)
        content = _slice(data, position, length)
        return self._content(content, rule, where), position + length

    def _content(self, content: memoryview, rule: FieldRule, where: str) -> list[Value]:
        if rule.kind == "bytes":
            return [content]
        if rule.kind == "text":
            return [_text(content, where)]
        if rule.kind == "float":
            self._count(len(content) // 4)
            return list(_floats(content))
        if rule.kind == "int":
            self._count(len(content))
            return list(_packed(content))
        return [self.message(content, rule.kind)]

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise WireError(f"it has more than {MAX_VALUES} values")


def _slice(data: memoryview, position: int, length: int) -> memoryview:
    if length > len(data) - position:
        raise WireError("a field reaches past the end")
    return data[position : position + length]


def _text(content: memoryview, where: str) -> str:
    if len(content) > MAX_TEXT_BYTES:
        raise WireError(f"{where} is a text of {len(content)} bytes")
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"{where} is no UTF-8 text") from error


def _floats(content: memoryview) -> Iterator[float]:
    if len(content) % 4:
        raise WireError(f"a list of numbers takes {len(content)} bytes")
    return (value for (value,) in struct.iter_unpack("<f", content))


def _packed(content: memoryview) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield _signed(value)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The canonical varint at ``position``, and its end."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("the file is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >> 64:
                raise WireError("a number is not written in the shortest form")
            return value, position
    raise WireError("a number is too long")


def _signed(value: int) -> int:
    return value - (1 << 64) if value & _SIGN else value


def _head(number: int, length: int) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(length)


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
