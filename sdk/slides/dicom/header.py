"""The few words of a DICOM file that say whether it is a slide's, and of which series.

Data elements by DICOM PS3.5 and PS3.10; pixels are far behind what is read here.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = (1 << 15, 1 << 20)
"""How much of a file is read: first so much, then if that did not do so much, and no more."""

KEPT_HEADERS = 1 << 16

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (PS3.4, table B.5-1)."""

_MAGIC_AT, _MAGIC = 128, b"DICM"
_IMPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

_TRANSFER_SYNTAX, _SOP_CLASS = (0x0002, 0x0010), (0x0008, 0x0016)
_IMAGE_TYPE, _SERIES = (0x0008, 0x0008), (0x0020, 0x000E)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""Representations whose length takes four bytes, after two that are reserved."""

Tag = tuple[int, int]


@dataclass(frozen=True)
class DicomHeader:
    """``series`` is the SeriesInstanceUID. ``volume``: the pictures are of the slide itself, not of
    its label or the whole glass.
    """

    sop_class: str
    series: str
    volume: bool

    @property
    def is_slide(self) -> bool:
        return self.sop_class == WHOLE_SLIDE


def begins_as_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a DICOM file."""
    return head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def is_dicom(path: Path) -> bool:
    """Whether ``path`` begins as a DICOM file does; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return begins_as_dicom(file.read(_MAGIC_AT + len(_MAGIC)))
    except OSError:
        return False


def read_dicom_header(path: Path) -> DicomHeader | None:
    """What ``path`` says; None if it cannot be read, is no DICOM file, or does not say it.

    Read once: every slide of a folder asks for those of all files in it.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(KEPT_HEADERS)
def _read(path: Path, size: int, changed_ns: int) -> DicomHeader | None:
    del size, changed_ns  # by which a file that was changed is read again
    try:
        with path.open("rb") as file:
            for limit in HEADER_BYTES:
                file.seek(0)
                data = file.read(limit)
                if not begins_as_dicom(data):
                    return None
                header = _header_in(data)
                if header is not None or len(data) < limit:
                    return header
    except OSError:
        return None
    return None


def _header_in(data: bytes) -> DicomHeader | None:
    found: dict[Tag, str] = {}
    # Data that ends too early may have said enough.
    with suppress(struct.error, ValueError):
        for tag, value in _elements(data):
            if tag in (_SOP_CLASS, _IMAGE_TYPE, _SERIES):
                found[tag] = value.decode("ascii", "replace").strip("\0 ")
            if tag >= _SERIES:
                break
    if _SOP_CLASS not in found or _SERIES not in found:
        return None
    kinds = found.get(_IMAGE_TYPE, "").split("\\")
    return DicomHeader(found[_SOP_CLASS], found[_SERIES], "VOLUME" in kinds)


def _elements(data: bytes) -> Iterator[tuple[Tag, bytes]]:
    """The elements of the file meta information and the data set, not those inside sequences.

    Raises ValueError and struct.error where ``data`` ends or makes no sense.
    """
    at, implicit, order = _MAGIC_AT + len(_MAGIC), False, "<"
    syntax = ""
    in_meta = True
    while at < len(data):
        if in_meta and data[at : at + 2] != b"\x02\x00":
            in_meta = False
            if syntax == _DEFLATED:
                raise ValueError("compressed")
            implicit, order = syntax == _IMPLICIT_LITTLE, ">" if syntax == _EXPLICIT_BIG else "<"
        tag, length, at = _element_head(data, at, implicit, order)
        if length == _UNDEFINED:
            at = _after_sequence(data, at, implicit, order)
            continue
        value = data[at : at + length]
        if len(value) < length:
            raise ValueError("cut off")
        if tag == _TRANSFER_SYNTAX:
            syntax = value.decode("ascii", "replace").strip("\0 ")
        at += length
        yield tag, value


def _element_head(data: bytes, at: int, implicit: bool, order: str) -> tuple[Tag, int, int]:
    """(tag, length of the value, where it begins) of the element at ``at``."""
    group, number = struct.unpack_from(f"{order}HH", data, at)
    if implicit or group == 0xFFFE:
        return (group, number), *struct.unpack_from(f"{order}I", data, at + 4), at + 8
    representation = data[at + 4 : at + 6]
    if representation in _LONG:
        return (group, number), *struct.unpack_from(f"{order}I", data, at + 8), at + 12
    if not representation.isupper():
        raise ValueError(f"no value representation: {representation!r}")
    return (group, number), *struct.unpack_from(f"{order}H", data, at + 6), at + 8


def _after_sequence(data: bytes, at: int, implicit: bool, order: str) -> int:
    """Where the sequence of undefined length ends whose first item is at ``at``."""
    depth = 1  # of sequences and items of undefined length that are open
    while depth:
        tag, length, at = _element_head(data, at, implicit, order)
        if tag in (_SEQUENCE_END, _ITEM_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        elif tag != _ITEM:  # what an item of known length holds is gone through as well
            at += length
    return at
