"""Philips iSyntax slides of two levels, by the layout that libisyntax reads: a header in XML with a
table of blocks of wavelet coefficients, a table of where each lies, and the blocks."""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

BLOCK_PX = 128
"""The side of a block, in coefficients."""
AREA_PX = 4 * BLOCK_PX
"""What a tile of the coarser level covers, in pixels of the finer one."""

_PADDING_PX = 9
"""At each edge, for the wavelets of two levels; no part of the slide."""

_MEAN, _DETAIL = 0, 1
_FIRST_PX = {(_DETAIL, 0): 1, (_DETAIL, 1): 4, (_MEAN, 1): 6}
"""Where the first block of a kind and level lies, in pixels of the finer level."""

_NOTHING = bytes(8)
"""A block of zeros."""

Colour = tuple[int, int, int]


class _Block(NamedTuple):
    column: int
    row: int
    channel: int
    level: int
    kind: int
    stored: bytes

    def described(self) -> bytes:
        """Its entry in the header."""
        first, step = _FIRST_PX[self.kind, self.level], 2 * BLOCK_PX << self.level
        place = (first + self.column * step, first + self.row * step)
        where = _element(0x200E, struct.pack("<5I", *place, self.channel, self.level, self.kind))
        entry = where + _element(0x2012, bytes(4))
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(entry)) + entry

    def number(self, columns: int, rows: int) -> int:
        """Of its entry in the table of places, for a slide of so many areas."""
        areas = columns * rows
        before = {(_DETAIL, 0): 0, (_DETAIL, 1): 4 * areas, (_MEAN, 1): 5 * areas}
        across = columns if self.level else 2 * columns
        return (
            6 * areas * self.channel
            + before[self.kind, self.level]
            + self.row * across
            + self.column
        )


def size_of(colours: Sequence[Sequence[Colour]]) -> tuple[int, int]:
    """(w, h) in pixels of the slide that :func:`write_isyntax` writes."""
    return (
        len(colours[0]) * AREA_PX - 2 * _PADDING_PX,
        len(colours) * AREA_PX - 2 * _PADDING_PX,
    )


def write_isyntax(path: Path, colours: Sequence[Sequence[Colour]], *, mpp: float = 0.25) -> Path:
    """Write a slide whose areas of ``AREA_PX`` are of one colour (R, G, B) each, by row.

    The values of a colour differ by multiples of four: the format halves differences twice.
    """
    columns, rows = len(colours[0]), len(colours)
    blocks = list(_blocks(colours))
    header = _header(columns, rows, mpp, blocks).encode() + b"\r\n\x04"
    at = len(header) + 8 + 40 * len(blocks)
    places = [b""] * len(blocks)
    for block in blocks:
        entry = _element(0x2010, struct.pack("<Q", at))
        entry += _element(0x2011, struct.pack("<Q", len(block.stored)))
        places[block.number(columns, rows)] = struct.pack("<HHI", 0xFFFE, 0xE000, 32) + entry
        at += len(block.stored)
    path.write_bytes(
        header + _element(0x2015, b"".join(places)) + b"".join(block.stored for block in blocks)
    )
    return path


def _blocks(colours: Sequence[Sequence[Colour]]) -> Iterator[_Block]:
    """In the order in which they are stored: by area and channel."""
    for row, line in enumerate(colours):
        for column, (red, green, blue) in enumerate(line):
            orange = red - blue
            middle = blue + orange // 2
            greenness = green - middle
            for channel, value in enumerate((middle + greenness // 2, orange, greenness)):
                yield _Block(column, row, channel, 1, _DETAIL, _NOTHING)
                for down, right in itertools.product(range(2), repeat=2):
                    place = (2 * column + right, 2 * row + down)
                    yield _Block(*place, channel, 0, _DETAIL, _NOTHING)
                yield _Block(column, row, channel, 1, _MEAN, _stored(value))


def _stored(value: int) -> bytes:
    """A block whose coefficients are all ``value``: planes of its bits, in a Huffman code."""
    if not value:
        return _NOTHING
    bits = abs(value) << 1 | (value < 0)
    plane_bytes = BLOCK_PX * BLOCK_PX // 8
    message = bytearray(b"\xff" * (plane_bytes * bits.bit_count()) + struct.pack("<H", bits))
    codes: dict[int, str] = {}
    tree = _tree(sorted({0, *message}), "", codes)
    # Runs of the symbol 0 would follow it in as many bits as the second of these bytes says.
    stream = tree + "".join(codes[symbol] for symbol in message)
    number = int(stream[::-1], 2)  # the first bit is the lowest
    packed = number.to_bytes(-(-len(stream) // 8), "little")
    return struct.pack("<IBB", len(message), 0, 0) + packed


def _tree(symbols: Sequence[int], path: str, codes: dict[int, str]) -> str:
    """The tree of ``symbols``, whose ``codes`` begin with ``path``, as bits."""
    if len(symbols) == 1:
        codes[symbols[0]] = path
        return "1" + f"{symbols[0]:08b}"[::-1]
    half = len(symbols) // 2
    left, right = _tree(symbols[:half], path + "0", codes), symbols[half:]
    return "0" + left + _tree(right, path + "1", codes)


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0x301D, number, len(value)) + value


def _header(columns: int, rows: int, mpp: float, blocks: Sequence[_Block]) -> str:
    entries = b"".join(block.described() for block in blocks)
    table = base64.b64encode(struct.pack("<I", len(entries)) + entries).decode()
    whole = [columns * AREA_PX, rows * AREA_PX, 3, 2, 4]
    units = [
        _object("UFSImageDimension", [_said(0x2006, unit), _said(0x2007, scale)])
        for unit, scale in (("MicroMeter", f"{mpp:g}"), ("MicroMeter", f"{mpp:g}"))
    ]
    image = [
        _said(0x1004, "WSI"),
        _array(
            0x2000,
            [
                _object(
                    "UFSImageGeneralHeader",
                    [_said(0x2001, str(len(blocks))), _array(0x2003, units), _ranges(whole)],
                )
            ],
        ),
        _array(
            0x2009,
            [_object("UFSImageBlockHeaderTemplate", [_ranges([BLOCK_PX, BLOCK_PX, 3, 2, 4])])],
        ),
        _said(0x200F, "16"),
        _said(0x2014, table),
    ]
    told = [
        '<Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">'
        "PHILIPS</Attribute>",
        _said(0x1001, "5.0"),
        _array(0x1003, [_object("DPScannedImage", image)]),
    ]
    return '<?xml version="1.0" encoding="UTF-8" ?>' + _object("DPUfsImport", told)


def _ranges(counts: Sequence[int]) -> str:
    return _array(
        0x200A,
        [
            _object("UFSImageDimensionRange", [_said(0x200B, f"0 1 {count - 1}")])
            for count in counts
        ],
    )


def _object(kind: str, content: Sequence[str]) -> str:
    return f'<DataObject ObjectType="{kind}">{"".join(content)}</DataObject>'


def _array(number: int, content: Sequence[str]) -> str:
    return _attribute(number, "IDataObjectArray", f"\n<Array>{''.join(content)}</Array>\n")


def _said(number: int, value: str) -> str:
    return _attribute(number, "IString", value)


def _attribute(number: int, kind: str, content: str) -> str:
    name = f'Name="UFS_{number:04X}" Group="0x301D" Element="0x{number:04X}" PMSVR="{kind}"'
    return f"<Attribute {name}>{content}</Attribute>"
