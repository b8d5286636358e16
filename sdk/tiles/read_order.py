"""In which order the tiles of a grid are read, so that each encoded tile is decoded once."""

from __future__ import annotations

import numpy as np

from pathgene_rt.geometry import Int64Array, TileGrid

STRIP_PX = 16_384
"""Of the level that is read. An encoded tile on the border of two strips is decoded for both: of
240 px tiles 1 in 69, none where strips end where encoded tiles do (256, 512, 1024 px)."""


def locality_order(grid: TileGrid) -> Int64Array:
    """int64 [N]: the rows of ``grid`` in strips of ``STRIP_PX``, each read row by row.

    Between two tiles that touch the same encoded tile then lies at most one row of a strip: a cache
    of 3 rows of encoded tiles across a strip (36 MB of 240 px tiles, 75 MB of 512 px) decodes each
    once within a strip, however wide the slide.
    """
    columns, rows = grid.coords.T
    strip = columns // max(1, STRIP_PX // grid.read_px)
    return np.lexsort((columns, rows, strip)).astype(np.int64)
