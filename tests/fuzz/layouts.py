"""Where the numbers of vendors' slides lie, as tests.support writes them, and how they change."""

from __future__ import annotations

import base64
import binascii
import random
import re
import struct
from collections.abc import Callable, Sequence

from tests.fuzz.mutate import INTERESTING, bytes_changed
from tests.fuzz.tiff import stream_changed

Field = tuple[int, str]
"""A place and a format of ``struct``."""

_FLOATS = (0.0, -1.0, 1e-30, 0.25, 1.0, 1e30, float("inf"), float("nan"))

_NUMBER = re.compile(rb"(?<=[> \"])-?[0-9.]+(?=[< \"])")
_ELEMENT = re.compile(rb"<(?:Attribute|DataObject|Array)[^>]*>")
_TABLE = re.compile(rb"(?<=>)[A-Za-z0-9+/=]{200,}(?=<)")


def fields_changed(rng: random.Random, data: bytes, fields: Sequence[Field]) -> bytes:
    """A few of ``fields`` exchanged, a stream of a tile changed, or any bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        action = rng.random()
        if action < 0.6:
            _change_field(rng, out, fields)
        elif action < 0.85:
            out = bytearray(stream_changed(rng, bytes(out)))
        else:
            out = bytearray(bytes_changed(rng, bytes(out), near=1024))
    return bytes(out)


def kfb_fields(data: bytes) -> list[Field]:
    """Of the header, and of each entry of the index."""
    count, index = (struct.unpack_from("<I", data, at)[0] for at in (0x10, 0x44))
    fields = [(at, "<I") for at in (0x10, 0x14, 0x18, 0x44, 0x58)] + [(0x4C, "<f"), (0x20, "<I")]
    for entry in range(index, index + 64 * count, 64):
        fields += [(entry + at, "<I") for at in (0, 4, 8, 12, 16, 32, 36, 40, 60)]
        fields.append((entry + 20, "<f"))
    return fields


def tmap_fields(data: bytes) -> list[Field]:
    """Of the header, and of the levels and their tables of tiles (07), or of the block (06)."""
    fields = [(at, "<B") for at in range(4, 16)] + [(0x10, "<f")]
    if data[5:6] == b"6":
        fields += [(at, "<H") for at in range(0x14, 0x2C, 2)] + [(at, "<I") for at in (44, 48, 52)]
        fields += [(at, "<H") for at in range(200, 212, 2)]
        for entry in range(212, 500, 12):
            fields += [(entry + at, "<B") for at in range(4)]
            fields += [(entry + at, "<I") for at in (4, 8)]
        return fields
    fields += [(at, "<I") for at in (0x14, 0x18, 0x1C)]
    (levels,) = struct.unpack_from("<I", data, 0x18)
    for level in range(560, 560 + 32 * levels, 32):
        fields += [(level, "<I"), (level + 4, "<f")]
        fields += [(level + at, "<I") for at in range(8, 32, 4)]
        rows, columns, table = struct.unpack_from("<III", data, level + 16)
        for entry in range(table, table + 40 * rows * columns, 40):
            fields += [(entry + at, "<I") for at in (0, 16, 20, 32)] + [(entry + 24, "<Q")]
    return fields


def isyntax_changed(rng: random.Random, data: bytes) -> bytes:
    """Numbers and elements of the header, its table of blocks, the places of blocks, their first
    bytes, or any bytes."""
    end = data.index(b"\x04")
    header, rest = data[:end], bytearray(data[end:])
    (table_bytes,) = struct.unpack_from("<I", rest, 5)
    for _ in range(rng.choice((1, 1, 2, 3))):
        action = rng.random()
        if action < 0.3:
            header = _exchanged(rng, header, _NUMBER, _other_number)
        elif action < 0.4:
            header = _exchanged(rng, header, _ELEMENT, _other_element)
        elif action < 0.6:
            header = _exchanged(rng, header, _TABLE, _other_table)
        elif action < 0.75:
            starts = range(9, 9 + table_bytes, 40)
            entry = rng.choice(starts)
            _change_field(rng, rest, [(entry + at, "<Q") for at in (16, 32)] + [(5, "<I")])
        elif action < 0.9:
            at = 9 + table_bytes + rng.randrange(max(1, len(rest) - 9 - table_bytes))
            rest[at : at + 2] = rng.randbytes(2)
        else:
            return bytes_changed(rng, header + bytes(rest), near=len(header))
    return header + bytes(rest)


def _change_field(rng: random.Random, out: bytearray, fields: Sequence[Field]) -> None:
    at, kind = rng.choice(fields)
    size = struct.calcsize(kind)
    if at + size > len(out):
        return
    if kind[-1] == "f":
        struct.pack_into(kind, out, at, rng.choice(_FLOATS))
        return
    (now,) = struct.unpack_from(kind, out, at)
    value = rng.choice((*INTERESTING, now + 1, now - 1, now * 2, now // 2, len(out), len(out) - 1))
    struct.pack_into(kind, out, at, value % (1 << 8 * size))


def _exchanged(
    rng: random.Random,
    header: bytes,
    pattern: re.Pattern[bytes],
    other: Callable[[random.Random, bytes], bytes],
) -> bytes:
    found = list(pattern.finditer(header))
    if not found:
        return header
    one = rng.choice(found)
    return header[: one.start()] + other(rng, one.group()) + header[one.end() :]


def _other_number(rng: random.Random, _: bytes) -> bytes:
    text = rng.choice((*map(str, INTERESTING), "-1", "-2147483648", "", "0.5", "1e999", "9" * 400))
    return text.encode()


def _other_element(rng: random.Random, element: bytes) -> bytes:
    numbers = (b"0x1003", b"0x2000", b"0x2009", b"0x200A", b"0x200D", b"0x2014", b"0x2016")
    return rng.choice(
        (
            b"",
            element * rng.choice((2, 40, 400)),
            re.sub(rb"0x[0-9A-F]{4}(?=\" PMSVR)", rng.choice(numbers), element),
            element.replace(b"IDataObjectArray", b"IString"),
        )
    )


def _other_table(rng: random.Random, text: bytes) -> bytes:
    if rng.random() < 0.2:
        return bytes_changed(rng, text)
    try:
        table = bytearray(base64.b64decode(text))
    except binascii.Error:  # it was changed before
        return text
    entry = rng.randrange(4, max(5, len(table) - 47), 48)
    places = (4, *range(16, 36, 4), 44)
    _change_field(rng, table, [(0, "<I"), *((entry + at, "<I") for at in places)])
    return base64.b64encode(table)
