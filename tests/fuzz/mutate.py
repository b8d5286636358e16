"""Mutations that know a little of what they change.

All draw from the ``random.Random`` of the case, so that a seed and a number give the case again.
"""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from typing import Any

INTERESTING = (
    0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 127, 128, 255, 256, 1023, 4095, 32767, 32768, 65535, 65536,
    (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1,
)  # fmt: skip

WORDS = (
    "", " ", "NA", "nan", "#N/A", "NULL", "None", "-", ".", "inf", "1e999", "1.0", "1", "true",
    "0x1", "Mutated", "mutated", "../x", "/etc/passwd", "C:\\x", "a" * 300, "\0", "\x1b[2J",
    "\u202e", "é", "组织", '"', "'", ",", ";", "\t", "\n", "=1+1", "\ufeff", "\ud800",
)  # fmt: skip


def bytes_changed(rng: random.Random, data: bytes, *, near: int | None = None) -> bytes:
    """A few bytes set, flipped, inserted, removed or moved, or an integer overwritten; most of them
    in the first ``near`` bytes if given."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            return bytes(out)
        reach = len(out) if near is None or rng.random() < 0.2 else min(near, len(out))
        at = rng.randrange(reach)
        action = rng.randrange(7)
        if action == 0:
            out[at] = rng.randrange(256)
        elif action == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            width, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
            value = rng.choice(INTERESTING) % (1 << (8 * width))
            packed = struct.pack(order + "BHIQ"[width.bit_length() - 1], value)
            out[at : at + width] = packed[: len(out) - at]
        elif action == 3:
            del out[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif action == 4:
            out[at:at] = out[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif action == 5:
            other, length = rng.randrange(len(out)), rng.choice((2, 4, 8, 32))
            out[at : at + length] = out[other : other + length]
        else:
            del out[rng.randrange(len(out)) :]
    return bytes(out)


def text_changed(rng: random.Random, text: str) -> str:
    """Cells, lines and separators of a table exchanged for what people and programs write."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not lines:
            break
        row = rng.randrange(len(lines))
        cells = lines[row].split(",")
        action = rng.randrange(8)
        if action <= 2:
            cells[rng.randrange(len(cells))] = rng.choice(WORDS)
        elif action == 3:
            cells.insert(rng.randrange(len(cells) + 1), rng.choice(WORDS))
        elif action == 4:
            del cells[rng.randrange(len(cells))]
        elif action == 5:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        elif action == 6:
            lines = [line.replace(",", rng.choice((";", "\t", "|", ",,"))) for line in lines]
            continue
        else:
            cells = [cell.upper() for cell in cells]
        lines[row] = ",".join(cells)
    return rng.choice(("\n", "\r\n", "\r")).join(lines) + rng.choice(("", "\n"))


def document_changed(rng: random.Random, document: Any) -> Any:
    """One node of a JSON document removed, exchanged or put elsewhere."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                collect(value)

    collect(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        node, key = rng.choice(places)
        replacement: Callable[[], Any] = rng.choice(
            (
                lambda: rng.choice(WORDS),
                lambda: rng.choice(INTERESTING),
                lambda: -rng.choice(INTERESTING),
                lambda: rng.choice((None, True, False, 0.5, -1.5, 1e308, [], {}, [[]], {"": {}})),
                lambda: copy.deepcopy(rng.choice(places)[0]),
            )
        )
        value = replacement()
        if isinstance(node, dict) and key in node and rng.random() < 0.2:
            node[rng.choice(WORDS)] = node.pop(key)
        elif isinstance(node, dict) or key < len(node):
            node[key] = value
    return document
