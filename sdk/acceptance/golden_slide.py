"""A small slide of a bundle's golden tiles: what acceptance predicts where no slide is given.

One level of JPEG tiles as Aperio stores them. Written here, in the few tags that it takes, because
a workstation has no package that writes JPEG TIFFs; decoding is what it is for.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import simplejpeg

from pathgene_rt.files import write_bytes
from pathgene_rt.geometry import UInt8Array

STORED_PX = 256
JPEG_QUALITY = 90
_GLASS = 243
_SIDE_PX, _MOST_TILES = 4096, 16

_SHORT, _LONG, _ASCII = 3, 4, 2


def write_golden_slide(path: Path, tiles: UInt8Array, mpp: float) -> None:
    """Write a slide at ``mpp`` um/px whose tissue is ``tiles`` uint8 [n, p, p, 3], again and again,
    mirrored in turn, with a margin of glass one tile wide. Raises OutputError.
    """
    tile_px = tiles.shape[1]
    across = min(_MOST_TILES, max(4, _SIDE_PX // tile_px))
    side_px = -(-across * tile_px // STORED_PX) * STORED_PX
    canvas = np.full((side_px, side_px, 3), _GLASS, np.uint8)
    inner = across - 2
    for number in range(inner * inner):
        row, column = divmod(number, inner)
        turn, which = divmod(number, len(tiles))
        top, left = (row + 1) * tile_px, (column + 1) * tile_px
        # Each time round another mirror image, so that no tile comes twice before the fifth.
        pixels = tiles[which][:: 1 - 2 * (turn & 1), :: 1 - (turn & 2)]
        canvas[top : top + tile_px, left : left + tile_px] = pixels
    description = f"Aperio Image Library (golden tiles)\n{side_px}x{side_px} |AppMag = 20|MPP = "
    write_bytes(path, _tiff(canvas, f"{description}{mpp:g}"))


def _tiff(pixels: UInt8Array, description: str) -> bytes:
    """A little-endian TIFF of one directory whose JPEG tiles hold ``pixels`` uint8 [h, w, 3]."""
    height, width = pixels.shape[:2]
    tiles = [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels[top : top + STORED_PX, left : left + STORED_PX]),
            quality=JPEG_QUALITY,
            colorsubsampling="420",
        )
        for top in range(0, height, STORED_PX)
        for left in range(0, width, STORED_PX)
    ]
    data = bytearray(8)
    offsets = []
    for tile in tiles:
        offsets.append(len(data))
        data += tile + b"\0" * (len(tile) % 2)
    entries: list[tuple[int, int, list[int] | bytes]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),  # JPEG
        (262, _SHORT, [6]),  # YCbCr
        (270, _ASCII, description.encode() + b"\0"),
        (277, _SHORT, [3]),
        (284, _SHORT, [1]),
        (322, _SHORT, [STORED_PX]),
        (323, _SHORT, [STORED_PX]),
        (324, _LONG, offsets),
        (325, _LONG, [len(tile) for tile in tiles]),
        (530, _SHORT, [2, 2]),
    ]
    directory = bytearray()
    for tag, kind, value in entries:
        count = len(value)
        letter = {_SHORT: "H", _LONG: "I"}.get(kind)
        packed = bytes(value) if letter is None else struct.pack(f"<{count}{letter}", *value)
        if len(packed) > 4:
            data += b"\0" * (len(data) % 2)
            place = len(data)
            data += packed
            packed = struct.pack("<I", place)
        directory += struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0")
    data += b"\0" * (len(data) % 2)
    data[:8] = struct.pack("<2sHI", b"II", 42, len(data))
    return bytes(data + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0))
