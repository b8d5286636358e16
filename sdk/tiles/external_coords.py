"""Tiles that CLAM or TRIDENT chose: their coordinate files in place of our own tissue detection.

CLAM's ``patches/<id>.h5`` and TRIDENT's ``patches/<id>_patches.h5`` hold ``coords`` [N, 2], level-0
corners, and state how large a tile is.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import FeatureFileError, NoTissueError, UsageError
from pathgene_rt.features.hdf5 import read_coords
from pathgene_rt.features.tile_attributes import TileAttributes
from pathgene_rt.geometry import Int32Array, SlideInfo, TileGrid
from pathgene_rt.tiles.grid import ROUNDING, make_grid, scale_of_span

COORDS_FOLDERS = (".", "patches", "*/patches")
"""Where in a folder coordinates lie: CLAM's and TRIDENT's own, of their results, and TRIDENT's of a
job, which has a folder for each scale."""

MAGNIFICATION_TOLERANCE = 0.12
"""Relative. Scanners' "40x" lies between 0.22 and 0.275 um/px, so tiles that TRIDENT makes "at 20x"
between 0.44 and 0.55; so did those that heads on its features were trained on."""

COORDS_NAMES = ("{}.h5", "{}_patches.h5")
"""CLAM's and TRIDENT's files of a slide."""


def grid_from_coords(
    info: SlideInfo, preprocess: Preprocess, path: Path, names: Collection[str] = ()
) -> TileGrid:
    """The tiles that the coordinates file ``path`` lists, in reading order; all count as tissue.

    ``names`` are what else the slide may be called beside its id. Raises FeatureFileError if it is
    no such file or belongs to another slide, NoTissueError if it lists no tile, SlideScaleError if
    its tiles are not of the bundle's scale; of tiles that were chosen by magnification, that at
    which the bundle's lies is asked for (:func:`scale_warnings`).
    """
    coords, attributes = read_coords(path)
    if len(coords) == 0:
        raise NoTissueError(f"{path}: lists no tile; make the coordinates again")
    attributes.require_slide(info, {info.slide_id, *names})
    scale = scale_of_span(
        info, preprocess, attributes.span_on(info), _tolerance(attributes, preprocess)
    )
    xy = _checked_corners(path, coords, info)
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    return make_grid(info, preprocess, scale, xy[order], np.ones(len(xy), dtype=np.float32))


def scale_warnings(grid: TileGrid, preprocess: Preprocess) -> tuple[str, ...]:
    """For a report: that the tiles of ``grid`` are not of the bundle's scale."""
    off = grid.mpp / preprocess.mpp - 1
    if abs(off) <= max(preprocess.mpp_tolerance, ROUNDING):
        return ()
    return (
        f"the tiles of --coords were chosen by magnification: on this slide they are "
        f"{grid.mpp:.4g} um/px, {off:+.1%} from the model's {preprocess.mpp:g}",
    )


def coords_of_slide(coords: Path, slide: Path) -> Path:
    """The coordinates file of ``slide``: ``coords`` itself, or the one in that folder that has the
    slide's name. Raises FeatureFileError if there is none, or more than one.
    """
    if not coords.is_dir():
        return coords
    found = [
        path
        for folder in COORDS_FOLDERS
        for name in COORDS_NAMES
        for path in sorted(coords.glob(f"{folder}/{glob.escape(name.format(slide.stem))}"))
    ]
    if len(found) > 1:
        raise FeatureFileError(
            f"{slide.name}: {len(found)} files in {coords} are its coordinates "
            f"({', '.join(str(path.relative_to(coords)) for path in found[:3])}); give the folder "
            "of one of them"
        )
    if not found:
        names = " or ".join(name.format(slide.stem) for name in COORDS_NAMES)
        raise FeatureFileError(
            f"{slide.name}: no coordinates in {coords}; it is to hold {names}, itself or in "
            "patches, as CLAM and TRIDENT write them"
        )
    return found[0]


def check_coords(coords: Path | None, slides: int) -> None:
    """Raise UsageError if one file is to serve several ``slides``."""
    if coords is not None and slides > 1 and not coords.is_dir():
        raise UsageError(
            f"--coords {coords} is one file for {slides} slides; give the folder that holds one "
            "for each"
        )


def _tolerance(attributes: TileAttributes, preprocess: Preprocess) -> float:
    """Of the scale of the file's tiles, relative."""
    nominal = attributes.nominal_mpp
    if (
        nominal is not None
        and math.isclose(nominal, preprocess.mpp, rel_tol=1e-3)
        and attributes.tile_px == preprocess.tile_px
        and preprocess.scale_policy != "refuse"
    ):
        return max(preprocess.mpp_tolerance, MAGNIFICATION_TOLERANCE)
    return preprocess.mpp_tolerance


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
