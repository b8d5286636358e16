"""A TIFF's directories as they lie in the file, each once: the chain, and the SubIFDs of each.

Nothing is allocated for what they claim. The format: TIFF 6.0, section 2, its supplement 1 for
SubIFDs, and BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_DIRECTORIES = 1024
MAX_ENTRIES = 1024
"""Of a directory; real ones have about 20."""

_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_BYTES |= {16: 8, 17: 8, 18: 8}
_SUB_DIRECTORIES = 330
_OFFSETS = {4: "I", 13: "I", 16: "Q", 18: "Q"}
"""By the type of the values that can be places in the file."""


class ManyDirectoriesError(ValueError):
    """The directories go in a circle, or there are more of them than ``MAX_DIRECTORIES``."""


class ManyEntriesError(ValueError):
    """A directory claims ``entries``, more than ``MAX_ENTRIES``."""

    def __init__(self, entries: int) -> None:
        super().__init__(f"a directory claims {entries} entries")
        self.entries = entries


@dataclass(frozen=True, slots=True)
class Entry:
    """``count`` values of type ``kind``, which take ``claimed_bytes``. They lie at byte ``at``;
    None where they are in the entry itself.
    """

    tag: int
    kind: int
    count: int
    claimed_bytes: int
    at: int | None


@dataclass(frozen=True)
class Directory:
    """``raw`` is the directory as it is stored, from its first entry to where the next lies."""

    raw: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers lie in a classic TIFF or a BigTIFF."""

    order: str
    count: str
    entry: struct.Struct
    offset: str

    @classmethod
    def of(cls, head: bytes) -> tuple[_Form, int]:
        """Of a file that begins with ``head``, and where its first directory lies."""
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            raise ValueError("no TIFF")
        (version,) = struct.unpack(order + "H", head[2:4])
        if version == 42:
            form = cls(order, order + "H", struct.Struct(order + "HHI4s"), order + "I")
            return form, struct.unpack(form.offset, head[4:8])[0]
        if version == 43 and head[4:8] == struct.pack(order + "HH", 8, 0):
            form = cls(order, order + "Q", struct.Struct(order + "HHQ8s"), order + "Q")
            return form, struct.unpack(form.offset, head[8:16])[0]
        raise ValueError("no TIFF")


def walk(file: BinaryIO) -> Iterator[Directory]:
    """The directories of ``file``, SubIFDs after the directory that names them.

    Raises ValueError where they end too early or make no sense, also ManyDirectoriesError and
    ManyEntriesError, after those that do.
    """
    file.seek(0)
    form, first = _Form.of(file.read(16))
    seen: set[int] = set()
    waiting = [(first, False)]
    while waiting:
        at, below = waiting.pop()
        if not at or (below and at in seen):  # some writers chain SubIFDs beside listing them
            continue
        if at in seen or len(seen) == MAX_DIRECTORIES:
            raise ManyDirectoriesError
        seen.add(at)
        directory, following = _directory(file, form, at)
        yield directory
        waiting.append((following, below))
        for entry in directory.entries:
            if entry.tag == _SUB_DIRECTORIES:
                listed = _places(file, form, directory, entry)
                waiting += [(place, True) for place in reversed(listed)]


def _directory(file: BinaryIO, form: _Form, at: int) -> tuple[Directory, int]:
    (count,) = struct.unpack(form.count, _read(file, at, struct.calcsize(form.count)))
    if count > MAX_ENTRIES:
        raise ManyEntriesError(count)
    table_bytes = count * form.entry.size
    start = at + struct.calcsize(form.count)
    raw = _read(file, start, table_bytes + struct.calcsize(form.offset))
    entries = []
    for tag, kind, values, inline in form.entry.iter_unpack(raw[:table_bytes]):
        claimed = values * _VALUE_BYTES.get(kind, 8)
        place = struct.unpack(form.offset, inline)[0] if claimed > len(inline) else None
        entries.append(Entry(tag, kind, values, claimed, place))
    return Directory(raw, tuple(entries)), struct.unpack(form.offset, raw[table_bytes:])[0]


def _places(file: BinaryIO, form: _Form, directory: Directory, entry: Entry) -> list[int]:
    """Where the SubIFDs lie that ``entry`` of ``directory`` lists."""
    letter = _OFFSETS.get(entry.kind)
    if letter is None:
        return []
    if entry.count > MAX_DIRECTORIES:
        raise ManyDirectoriesError
    if entry.at is None:
        end = (directory.entries.index(entry) + 1) * form.entry.size
        data = directory.raw[end - struct.calcsize(form.offset) : end][: entry.claimed_bytes]
    else:
        data = _read(file, entry.at, entry.claimed_bytes)
    return list(struct.unpack(f"{form.order}{entry.count}{letter}", data))


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    if at >= 1 << 63:
        raise ValueError("a directory lies past the end")
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("a directory is cut short")
    return data
