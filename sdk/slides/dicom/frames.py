"""Where the frames of DICOM pixel data lie in a file: PS3.5, A.4."""

from __future__ import annotations

import itertools
import struct
from typing import BinaryIO

import numpy as np

from pathgene_rt.geometry import Int64Array

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_ITEM_HEAD = 8
MAX_FRAME_BYTES = 1 << 26
"""Of one frame with the heads of its fragments."""


def native_frames(
    start: int, count: int, frame_bytes: int, planes: int
) -> tuple[Int64Array, Int64Array]:
    """The places and bytes int64 [planes * count] of frames from byte ``start`` on: of the first
    plane of each frame, then of the next.
    """
    part = frame_bytes // planes
    frames = start + np.arange(count, dtype=np.int64) * frame_bytes
    offsets = np.concatenate([frames + plane * part for plane in range(planes)])
    return offsets, np.full_like(offsets, part)


def encapsulated_frames(
    file: BinaryIO, start: int, count: int, extended: tuple[int, ...] = ()
) -> tuple[Int64Array, Int64Array]:
    """The places and bytes int64 [count] of frames whose items begin at byte ``start``, each with
    the heads of its fragments (see :func:`without_heads`).

    ``extended`` are the offsets of the Extended Offset Table, where there is one; else the basic
    table is used, or the chain of fragments is gone through. Raises ValueError.
    """
    file.seek(0, 2)
    end = file.tell()
    length = _item_bytes(file, start)
    first = start + _ITEM_HEAD + length
    offsets = extended
    if not offsets and length:
        table = _read(file, start + _ITEM_HEAD, min(length, 4 * count))
        offsets = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    if len(offsets) == count and _rise(offsets) and first + offsets[-1] < end:
        starts = first + np.array(offsets, dtype=np.int64)
        limits = np.append(starts[1:], min(end, int(starts[-1]) + MAX_FRAME_BYTES))
        return starts, limits - starts
    return _chained(file, first, count)


def without_heads(stored: bytes) -> bytes:
    """The frame with whose fragments ``stored`` begins, each behind its head. Raises ValueError."""
    fragments, at = [], 0
    while at + _ITEM_HEAD <= len(stored) and stored[at : at + 4] == _ITEM:
        (length,) = struct.unpack_from("<I", stored, at + 4)
        if at + _ITEM_HEAD + length > len(stored):
            raise ValueError("a fragment is cut short")
        fragments.append(stored[at + _ITEM_HEAD : at + _ITEM_HEAD + length])
        at += _ITEM_HEAD + length
    if not fragments:
        raise ValueError("no fragment where one should be")
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def _rise(offsets: tuple[int, ...]) -> bool:
    return offsets[0] == 0 and all(a < b for a, b in itertools.pairwise(offsets))


def _chained(file: BinaryIO, at: int, count: int) -> tuple[Int64Array, Int64Array]:
    """By going through the fragments, of which there must be one a frame, or one frame."""
    starts: list[int] = []
    lengths: list[int] = []
    while (head := _read(file, at, _ITEM_HEAD))[:4] == _ITEM:
        (length,) = struct.unpack("<I", head[4:])
        if len(starts) == count > 1:
            raise ValueError(f"more fragments than its {count} frames, and no table of offsets")
        starts.append(at)
        lengths.append(_ITEM_HEAD + length)
        at += lengths[-1]
    if head[:4] != _SEQUENCE_END:
        raise ValueError("its fragments do not end: the file is damaged or cut short")
    if count == 1 and starts:
        starts, lengths = starts[:1], [sum(lengths)]
    if len(starts) != count:
        raise ValueError(f"{len(starts)} fragments for {count} frames")
    return np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _item_bytes(file: BinaryIO, at: int) -> int:
    head = _read(file, at, _ITEM_HEAD)
    if head[:4] != _ITEM:
        raise ValueError("its pixels have no table of offsets")
    return int(struct.unpack("<I", head[4:])[0])


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("its pixels are cut short")
    return data
