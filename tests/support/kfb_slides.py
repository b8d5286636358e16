"""KFB slides, by the layout that readers of them agree on."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_kfb(
    folder: Path,
    levels: Sequence[np.ndarray],
    *,
    tile_px: int = 128,
    mpp: float = 0.5,
    wide: bool = False,
    missing: frozenset[int] = frozenset(),
) -> Path:
    """Write ``levels`` uint8 [h, w, 3], each half the one before. ``wide``: the places of tiles are
    of 64 bits, else of 32. ``missing`` are numbers of tiles.
    """
    streams, records = [], []
    for number, pixels in enumerate(levels):
        for top in range(0, pixels.shape[0], tile_px):
            for left in range(0, pixels.shape[1], tile_px):
                tile = pixels[top : top + tile_px, left : left + tile_px]
                stream = io.BytesIO()
                Image.fromarray(tile).save(stream, "JPEG", quality=85)
                streams.append(stream.getvalue())
                size = (tile.shape[1], tile.shape[0])
                records.append((left, top, *size, 20.0 / 2**number))
    kept = [number for number in range(len(streams)) if number not in missing]
    start = 512
    index = start + sum(len(streams[number]) for number in kept)
    header = bytearray(start)
    header[:8] = b"\xf1\x01\xee\xeeKFB\0"
    height, width = levels[0].shape[:2]
    struct.pack_into("<IIII4s", header, 0x10, len(kept), height, width, 20, b"JPEG")
    struct.pack_into("<I", header, 0x44, index)
    struct.pack_into("<f", header, 0x4C, mpp)
    struct.pack_into("<I", header, 0x58, tile_px)
    body, entries, at = b"", b"", start
    for number in kept:
        entry = bytearray(64)
        entry[:4], entry[60:] = b"\xf1\x04\xee\xee", b"\xff\x04\xee\xee"
        struct.pack_into("<iiiif", entry, 4, *records[number])
        struct.pack_into("<i", entry, 32, len(streams[number]))
        relative = at - index
        struct.pack_into("<q" if wide else "<i", entry, 36, relative)
        body, entries = body + streams[number], entries + bytes(entry)
        at += len(streams[number])
    path = folder / "slide.kfb"
    path.write_bytes(bytes(header) + body + entries)
    return path
