"""Zeiss CZI slides, written by Zeiss's own library (the extra czi)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIDE = 256
CORNER = (-40, 24)


def write_czi(
    path: Path, planes: Sequence[np.ndarray], compression: str = "zstd1:ExplicitLevel=2"
) -> Path:
    """Write ``planes`` uint8 [h, w, 3], by depth, in sub-blocks that begin at ``CORNER``."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path), exist_ok=True, compression_options=compression) as file:
        for depth, pixels in enumerate(planes):
            bgr = pixels[..., ::-1]
            for y in range(0, pixels.shape[0], SIDE):
                for x in range(0, pixels.shape[1], SIDE):
                    block = np.ascontiguousarray(bgr[y : y + SIDE, x : x + SIDE])
                    place = (x + CORNER[0], y + CORNER[1])
                    file.write(block, plane={"Z": depth}, location=place)
        file.write_metadata("slide", scale_x=0.5e-6, scale_y=0.5e-6, scale_z=1e-6)
    return path
