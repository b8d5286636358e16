"""Directories of a TIFF, entry by entry, and the streams of its tiles, segment by segment."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator

from tests.fuzz.mutate import INTERESTING, bytes_changed

_MARKER = re.compile(rb"\xff[\xc0-\xfe\x4f-\x65]")
"""Of JPEG and JPEG 2000."""

_KNOWN_TAGS = (
    254, 256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 282, 283, 284, 296, 317, 322, 323, 324,
    325, 330, 338, 339, 347, 530, 34675,
)  # fmt: skip
_COMPRESSIONS = (1, 5, 6, 7, 8, 32773, 32946, 33003, 33005, 34712, 50000, 50001, 50002)


def tiff_changed(rng: random.Random, data: bytes) -> bytes:
    """A few entries of directories changed, or bytes within tiles, or any bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        action = rng.random()
        if action < 0.55:
            _change_entry(rng, out)
        elif action < 0.85:
            _change_tile(rng, out)
        else:
            out = bytearray(bytes_changed(rng, bytes(out), near=4096))
    return bytes(out)


def stream_changed(rng: random.Random, data: bytes) -> bytes:
    """A segment of a JPEG or JPEG 2000 stream in ``data`` changed."""
    out = bytearray(data)
    _change_tile(rng, out)
    return bytes(out)


def _entries(data: bytes | bytearray) -> Iterator[tuple[int, str, bool]]:
    """(place, byte order, whether BigTIFF) of each entry."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (version,) = struct.unpack_from(order + "H", data, 2)
        big = version == 43
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        for _ in range(32):
            if not at:
                return
            (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
            first, size = at + (8 if big else 2), 20 if big else 12
            for number in range(min(count, 64)):
                if first + (number + 1) * size <= len(data):
                    yield first + number * size, order, big
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, first + count * size)
    except (struct.error, OverflowError):
        return


def _change_entry(rng: random.Random, out: bytearray) -> None:
    entries = list(_entries(out))
    if not entries:
        return
    at, order, big = rng.choice(entries)
    (tag,) = struct.unpack_from(order + "H", out, at)
    number = order + ("Q" if big else "I")
    width, mask = (8, (1 << 64) - 1) if big else (4, (1 << 32) - 1)
    field = rng.randrange(5)
    if field == 0:
        struct.pack_into(order + "H", out, at, rng.choice(_KNOWN_TAGS))
    elif field == 1:
        struct.pack_into(order + "H", out, at + 2, rng.randrange(20))
    elif field == 2:
        struct.pack_into(number, out, at + 4, rng.choice(INTERESTING) & mask)
    else:
        value = rng.choice((*INTERESTING, rng.randrange(len(out)), at))
        if tag == 259:
            value = rng.choice(_COMPRESSIONS)
        elif tag in (256, 257, 322, 323) and rng.random() < 0.7:
            value = rng.choice((16, 48, 64, 240, 256, 512, 1024, 4096, 1 << 20))
        packed = struct.pack(number, value & mask)
        if order == ">" and tag in (256, 257, 258, 259, 262, 277, 284):
            packed = struct.pack(order + "H", value & 0xFFFF).ljust(width, b"\0")
        out[at + 4 + width : at + 4 + 2 * width] = packed


def _change_tile(rng: random.Random, out: bytearray) -> None:
    """A segment of a JPEG or JPEG 2000 stream: marker, length, content; or a cut."""
    starts = [found.start() for found in _MARKER.finditer(out, 0, len(out) - 4)]
    if not starts:
        return
    at = rng.choice(starts)
    action = rng.randrange(4)
    if action == 0:
        out[at + 1] = rng.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xD9, 0xEE, 0x52, 0x53))
    elif action == 1:
        struct.pack_into(">H", out, at + 2, rng.choice(INTERESTING) & 0xFFFF)
    else:
        place = at + 4 + rng.randrange(24)
        if place < len(out):
            out[place] = rng.choice((0, 1, 2, 8, 16, 32, 127, 255, rng.randrange(256)))
