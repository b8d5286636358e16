"""Tiles that CLAM or TRIDENT chose: their coordinate files in place of our own tissue detection.

Both hold ``coords`` [N, 2], level-0 corners. CLAM's ``patches/<id>.h5`` states ``patch_size`` in
pixels of ``patch_level``; TRIDENT's ``patches/<id>_patches.h5`` states ``patch_size_level0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.errors import FeatureFileError, NoTissueError
from pathgene_rt.geometry import Int32Array, SlideInfo, TileGrid
from pathgene_rt.tiles.grid import make_grid, scale_of_span

MAX_TILES = 20_000_000
MAX_LEVEL_MISMATCH = 0.02


def grid_from_coords(info: SlideInfo, preprocess: Preprocess, path: Path) -> TileGrid:
    """The tiles that the coordinates file ``path`` lists, in reading order; all count as tissue.

    Raises FeatureFileError if it is no such file or belongs to another slide, NoTissueError if it
    lists no tile, SlideScaleError if its tiles are not of the bundle's scale.
    """
    coords, attributes = _read(path)
    if len(coords) == 0:
        raise NoTissueError(f"{path}: lists no tile; make the coordinates again")
    scale = scale_of_span(info, preprocess, _span_px(path, attributes, info))
    xy = _checked_corners(path, coords, info)
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    return make_grid(info, preprocess, scale, xy[order], np.ones(len(xy), dtype=np.float32))


def _read(path: Path) -> tuple[NDArray[Any], Mapping[str, Any]]:
    """``coords`` as stored, and its attributes (the file's own where the data set has none)."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            data = file.get("coords")
            if not isinstance(data, h5py.Dataset):
                raise FeatureFileError(
                    f"{path}: has no data set 'coords'; give CLAM's or TRIDENT's"
                )
            if data.ndim != 2 or data.shape[1] != 2 or data.shape[0] > MAX_TILES:
                raise FeatureFileError(
                    f"{path}: 'coords' is {list(data.shape)}, not [tiles, 2]; "
                    "give CLAM's or TRIDENT's coordinates file"
                )
            if data.dtype.kind not in "iuf":
                raise FeatureFileError(f"{path}: 'coords' holds {data.dtype}, not numbers")
            return data[:], {**dict(file.attrs), **dict(data.attrs)}
    except FeatureFileError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise FeatureFileError(
            f"{path}: cannot be read as HDF5 ({error}); give CLAM's or TRIDENT's coordinates file"
        ) from error


def _span_px(path: Path, attributes: Mapping[str, Any], info: SlideInfo) -> float:
    """Level-0 pixels that a tile spans, by TRIDENT's attributes or else CLAM's."""
    if "patch_size_level0" in attributes:
        for name, size in zip(("level0_width", "level0_height"), info.size_px, strict=True):
            if name in attributes and _number(path, attributes, name) != size:
                raise FeatureFileError(
                    f"{path}: {name} is {attributes[name]}, but {info.slide_id} has {size}; "
                    "the coordinates belong to another slide"
                )
        return _positive(path, attributes, "patch_size_level0")
    level = int(_number(path, attributes, "patch_level"))
    if not 0 <= level < len(info.downsamples):
        raise FeatureFileError(
            f"{path}: patch_level is {level}, but {info.slide_id} has {len(info.downsamples)} "
            "levels; the coordinates belong to another slide"
        )
    downsample = info.downsamples[level]
    if "downsample" in attributes:
        stated = _positive(path, attributes, "downsample")
        if abs(stated - downsample) > MAX_LEVEL_MISMATCH * downsample:
            raise FeatureFileError(
                f"{path}: level {level} is downsampled by {stated:g}, in {info.slide_id} by "
                f"{downsample:g}; the coordinates belong to another slide"
            )
    return _positive(path, attributes, "patch_size") * downsample


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


def _number(path: Path, attributes: Mapping[str, Any], name: str) -> float:
    """Attribute ``name``; the mean of x and y where it is a pair."""
    try:
        value = float(np.mean(np.asarray(attributes[name], dtype=np.float64)))
    except KeyError as error:
        raise FeatureFileError(
            f"{path}: 'coords' has no attribute {name!r}, so its scale is unknown; "
            "give CLAM's or TRIDENT's coordinates file"
        ) from error
    except (TypeError, ValueError) as error:
        raise FeatureFileError(f"{path}: attribute {name!r} is no number") from error
    if not np.isfinite(value):
        raise FeatureFileError(f"{path}: attribute {name!r} is {value}, not a finite number")
    return value


def _positive(path: Path, attributes: Mapping[str, Any], name: str) -> float:
    value = _number(path, attributes, name)
    if value <= 0:
        raise FeatureFileError(f"{path}: attribute {name!r} is {value:g}, not above 0")
    return value
