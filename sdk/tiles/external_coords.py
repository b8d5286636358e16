"""Tiles that CLAM or TRIDENT chose: their coordinate files in place of our own tissue detection.

CLAM's ``patches/<id>.h5`` and TRIDENT's ``patches/<id>_patches.h5`` hold ``coords`` [N, 2], level-0
corners, and state how large a tile is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import FeatureFileError, NoTissueError
from pathgene_rt.features.hdf5 import read_coords
from pathgene_rt.geometry import Int32Array, SlideInfo, TileGrid
from pathgene_rt.tiles.grid import make_grid, scale_of_span


def grid_from_coords(info: SlideInfo, preprocess: Preprocess, path: Path) -> TileGrid:
    """The tiles that the coordinates file ``path`` lists, in reading order; all count as tissue.

    Raises FeatureFileError if it is no such file or belongs to another slide, NoTissueError if it
    lists no tile, SlideScaleError if its tiles are not of the bundle's scale.
    """
    coords, attributes = read_coords(path)
    if len(coords) == 0:
        raise NoTissueError(f"{path}: lists no tile; make the coordinates again")
    scale = scale_of_span(info, preprocess, attributes.span_on(info))
    xy = _checked_corners(path, coords, info)
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    return make_grid(info, preprocess, scale, xy[order], np.ones(len(xy), dtype=np.float32))


def _checked_corners(path: Path, coords: NDArray[Any], info: SlideInfo) -> Int32Array:
    inside = (coords >= 0) & (coords < np.array(info.size_px))
    if not inside.all():
        x, y = coords[np.flatnonzero(~inside.all(axis=1))[0]]
        raise FeatureFileError(
            f"{path}: the tile at ({x:g}, {y:g}) lies outside {info.slide_id} "
            f"({info.size_px[0]} x {info.size_px[1]} px); the coordinates belong to another slide"
        )
    corners: Int32Array = np.rint(coords).astype(np.int32)
    return corners
