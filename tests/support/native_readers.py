"""Libraries of slide readers, compiled for the tests, and slides of their format."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from tests.support.paths import ROOT

ACME = ROOT / "tests" / "slides" / "programs" / "acme_reader.c"
EXAMPLE = ROOT / "examples" / "slide_reader.c"
STRICT = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


def compiled(source: Path, out: Path, *flags: str) -> Path:
    """The library ``out`` of a C file. Skips the test where there is no compiler."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    command = [compiler, *STRICT, *flags, f"-I{ROOT / 'sdk' / 'capi'}", str(source), "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def write_acme(path: Path, letter: str, pixels: np.ndarray, tile_px: int = 64) -> np.ndarray:
    """Write uint8 [h, w, 3] of whole tiles; what a reader gives of them. Tile 3 is not there."""
    height, width = pixels.shape[:2]
    head = b"ACME" + letter.encode() + b"  \0" + np.int32([width, height, tile_px]).tobytes()
    if letter == "R":
        path.write_bytes(head + pixels.tobytes())
        return pixels
    corners = [(y, x) for y in range(0, height, tile_px) for x in range(0, width, tile_px)]
    seen, streams = np.full_like(pixels, 255), []
    for number, (y, x) in enumerate(corners):
        tile = np.ascontiguousarray(pixels[y : y + tile_px, x : x + tile_px])
        stream = b"" if number == 3 else simplejpeg.encode_jpeg(tile, quality=90)
        streams.append(stream)
        if stream:
            seen[y : y + tile_px, x : x + tile_px] = simplejpeg.decode_jpeg(stream)
    sizes = np.array([len(stream) for stream in streams])
    starts = 20 + 16 * len(streams) + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    index = np.stack([starts, sizes], axis=1).astype("<i8").tobytes()
    path.write_bytes(head + index + b"".join(streams))
    return seen
