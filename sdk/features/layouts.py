"""Where the files of each tool keep a slide's features and the places of its tiles.

Ours, CLAM's and TRIDENT's: ``features`` [N, D] (TRIDENT also [1, N, D], and [D] of a single tile)
and ``coords`` [N, 2] in level-0 pixels. STAMP's: ``feats``, and ``coords`` in micrometres.
AtlasPatch's: ``features/<encoder>``, and ``coords`` [N, 5], of which the first two are x and y.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.features.safe_hdf5 import SafeHdf5File
from pathgene_rt.features.tile_attributes import TileAttributes

FEATURES, COORDS = "features", "coords"
_STAMPS = "feats"
_PLACED_COLUMNS = 5
"""AtlasPatch: x, y, and how the tile was read."""

MAX_TILES = 20_000_000
MAX_WIDTH = 65_536


def features_name(file: SafeHdf5File, path: Path, advice: str) -> str:
    """The dataset in which ``file`` has the features of tiles. Raises FeatureFileError if it has
    none, or those of several encoders."""
    if file.shape(FEATURES) is not None:
        return FEATURES
    if file.shape(_STAMPS) is not None:
        return _STAMPS
    encoders = file.members(FEATURES) or ()
    if len(encoders) > 1:
        raise FeatureFileError(
            f"{path}: holds features of {len(encoders)} encoders ({', '.join(encoders[:3])}); keep "
            "a file with one of them"
        )
    if not encoders:
        raise FeatureFileError(f"{path}: has no dataset {FEATURES!r}; {advice}")
    return f"{FEATURES}/{encoders[0]}"


def rows_of(file: SafeHdf5File, name: str, path: Path, advice: str) -> NDArray[Any]:
    """Dataset ``name`` as [N, columns]. Its size is checked before memory is taken for it.

    Raises FeatureFileError, also for one vector that is not that of a single tile.
    """
    stated = file.shape(name)
    if stated is None:
        raise FeatureFileError(f"{path}: has no dataset {name!r}; {advice}")
    shape = stated[1:] if len(stated) == 3 and stated[0] == 1 else stated
    if len(shape) == 1 and name != COORDS:
        places = file.shape(COORDS)
        if places is None or places[0] != 1:
            raise FeatureFileError(
                f"{path}: {name!r} is one vector of {shape[0]} numbers, the embedding of a whole "
                "slide and not features of its tiles; give the tiles' features"
            )
        shape = (1, *shape)
    if len(shape) != 2 or shape[0] > MAX_TILES or shape[1] > MAX_WIDTH:
        raise FeatureFileError(
            f"{path}: dataset {name!r} has the shape {list(stated)}, not [tiles, columns]; {advice}"
        )
    try:
        return file.rows(name).reshape(shape)
    except MemoryError as error:
        raise FeatureFileError(f"{path}: {name!r} {list(shape)} does not fit in memory") from error


def places_of(
    file: SafeHdf5File, attributes: TileAttributes, path: Path, advice: str
) -> NDArray[Any]:
    """The tiles' top-left corners [N, 2] in level-0 pixels.

    Where the file has micrometres and the slide's scale is not known, in pixels of the tiles' own
    scale, as if that were level 0's. Raises FeatureFileError.
    """
    coords = rows_of(file, COORDS, path, advice)
    if coords.shape[1] == _PLACED_COLUMNS:
        coords = coords[:, :2]
    if attributes.in_um:
        if math.isnan(attributes.mpp):
            raise FeatureFileError(
                f"{path}: has coords in um but does not say how large its tiles are (tile_size_um, "
                f"tile_size_px); {advice}"
            )
        return np.asarray(coords, dtype=np.float64) / attributes.mpp
    return coords
