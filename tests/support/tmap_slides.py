"""TMAP slides of the versions 07 and 06, by the layout on which tmapslide reads them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

TILE_PX = 128


def write_tmap(
    folder: Path, levels: Sequence[np.ndarray], *, mpp: float = 0.25, power: int = 40
) -> Path:
    """Version 07 of ``levels`` uint8 [h, w, 3], each half the one before; the first tile of the
    first level is missing."""
    tables, body, at = [], b"", 560 + 16 * 32
    sizes = [
        (len(range(0, one.shape[1], TILE_PX)), len(range(0, one.shape[0], TILE_PX)))
        for one in levels
    ]
    data_at = at + sum(40 * columns * rows + 64 for columns, rows in sizes)
    layers = b""
    for number, (pixels, (columns, rows)) in enumerate(zip(levels, sizes, strict=True)):
        height, width = pixels.shape[:2]
        layers += struct.pack("<IfIIIIII", number, power, width, height, rows, columns, at, 0)
        table = b""
        for cell in range(columns * rows):
            stream = b"" if cell == number == 0 else _tile(pixels, cell, columns)
            place = data_at + len(body) if stream else 0
            table += struct.pack(
                "<IIIIIIQII", number, 0, 0, 0, TILE_PX, TILE_PX, place, len(stream), 0
            )
            body += stream
        tables.append(table + bytes(64))
        at += len(tables[-1])
    header = bytearray(560)
    header[:8] = b"TMAP07\0\0"
    header[10:13] = bytes([1, power, 255])
    struct.pack_into("<fIII", header, 0x10, mpp / 1000, 0, len(levels), sum(map(len, sizes)))
    path = folder / "slide.tmap"
    path.write_bytes(bytes(header) + layers.ljust(16 * 32, b"\0") + b"".join(tables) + body)
    return path


def write_tmap_06(folder: Path, pixels: np.ndarray, *, files: int = 1, mpp: float = 0.25) -> Path:
    """Version 06 of ``pixels`` uint8 [512, 512, 3]: one block of 4 x 4 tiles, and the whole block
    at half its size. It says that it has ``files`` files."""
    tiles = [(0, cell % 4, cell // 4, _tile(pixels, cell, 4)) for cell in range(16)]
    tiles.append((1, 0, 0, _jpeg(np.ascontiguousarray(pixels[::2, ::2]))))
    block = bytearray(308)
    struct.pack_into("<HHii", block, 8, 0, 0, 0, 0)
    body = b""
    for number, (layer, column, row, stream) in enumerate(tiles):
        place = 192 + 308 + len(body)
        struct.pack_into(
            "<BBBBII", block, 20 + 12 * number, layer, column, row, 0, place, len(stream)
        )
        body += stream
    header = bytearray(192)
    header[:16] = b"TMAP06" + bytes([1, 0, files, 2, 0, 0, 2, 2, 0, 255])
    struct.pack_into("<fIHHHHHHH", header, 0x10, mpp / 1000, 1, 40, 1, 1, 512, 512, 128, 128)
    struct.pack_into("<III", header, 0x2C, 0, 512, 512)
    path = folder / "slide.tmap"
    path.write_bytes(bytes(header) + bytes(block) + body)
    return path


def _tile(pixels: np.ndarray, cell: int, columns: int) -> bytes:
    """With white where it reaches past the picture."""
    top, left = cell // columns * TILE_PX, cell % columns * TILE_PX
    tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    part = pixels[top : top + TILE_PX, left : left + TILE_PX]
    tile[: part.shape[0], : part.shape[1]] = part
    return _jpeg(tile)


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()
