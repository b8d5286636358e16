"""DICOM files of nothing but a header, as written by hand in each transfer syntax."""

from __future__ import annotations

import struct
from pathlib import Path

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def element(tag: tuple[int, int], vr: str, value: bytes, syntax: str = EXPLICIT) -> bytes:
    order = ">" if syntax == BIG else "<"
    value += b"\0" * (len(value) % 2)
    head = struct.pack(f"{order}HH", *tag)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if vr in ("SQ", "OB", "UN"):
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}I", len(value)) + value
    return head + vr.encode() + struct.pack(f"{order}H", len(value)) + value


def sequence(tag: tuple[int, int], item: bytes, syntax: str = EXPLICIT) -> bytes:
    """Of undefined length, with one item of undefined length that holds ``item``."""
    order = ">" if syntax == BIG else "<"
    head = struct.pack(f"{order}HH", *tag)
    head += b"" if syntax == IMPLICIT else b"SQ\0\0"
    ends = [struct.pack(f"{order}HHI", 0xFFFE, kind, 0) for kind in (0xE00D, 0xE0DD)]
    start = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return head + struct.pack(f"{order}I", 0xFFFFFFFF) + start + item + b"".join(ends)


def header(
    series: str,
    *,
    sop_class: str = WHOLE_SLIDE,
    kind: str = "VOLUME",
    syntax: str = EXPLICIT,
    padding: int = 0,
) -> bytes:
    """A file's beginning; sequences before the series hold other series, as real ones do."""
    meta = element((2, 2), "UI", sop_class.encode()) + element((2, 0x10), "UI", syntax.encode())
    other = element((0x20, 0xE), "UI", b"9.9.9", syntax)
    parts = [
        element((8, 8), "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE".encode(), syntax),
        element((8, 0x16), "UI", sop_class.encode(), syntax),
        sequence((8, 0x1115), sequence((8, 0x1199), other, syntax) + other, syntax),
        element((8, 0x2111), "UN", bytes(padding), syntax),
        element((0x20, 0xD), "UI", b"1.2.3", syntax),
        element((0x20, 0xE), "UI", series.encode(), syntax),
        element((0x28, 0x10), "US", b"\1\1", syntax),
    ]
    return bytes(128) + b"DICM" + meta + b"".join(parts)


def write_header(path: Path, series: str, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header(series, **options))
    return path
