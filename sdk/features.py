"""Bags of features, in memory and on disk as CLAM writes them.

One HDF5 file a slide: datasets `features` float32 [N, D] and `coords` [N, 2] (level-0 top-left),
with the attributes that CLAM's and our own tools expect on `coords`. CLAM's own files (without
attributes) and TRIDENT's (features sometimes [1, N, D]) are read too; what they do not say is None,
NaN or inferred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.files import atomic_path, reason
from pathgene_rt.geometry import Float32Array, Int32Array, Int64Array, grid_coords

_CHUNK_ROWS = 512


@dataclass(frozen=True)
class FeatureBag:
    """The features of one slide's tiles.

    ``features`` float32 [N, D]; ``xy`` int32 [N, 2], level-0 top-left corners; tiles are
    ``tile_px`` pixels of ``mpp`` um, ``span_px`` level-0 pixels wide. ``mpp`` is NaN and
    ``encoder_sha256`` None where a file of another tool does not say.
    """

    slide_id: str
    features: Float32Array
    xy: Int32Array
    tile_px: int
    mpp: float
    span_px: float
    encoder_sha256: str | None

    def __len__(self) -> int:
        return int(self.features.shape[0])

    @property
    def coords(self) -> Int64Array:
        """int64 [N, 2]: (column, row) of each tile in units of tiles."""
        return grid_coords(self.xy, self.span_px)


def write_features(path: Path, bag: FeatureBag) -> None:
    """Write ``bag`` to ``path``, whole or not at all. Raises OutputError."""
    import h5py

    rows = max(1, min(_CHUNK_ROWS, len(bag)))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        width = bag.features.shape[1]
        file.create_dataset("features", data=bag.features, chunks=(rows, width))
        coords = file.create_dataset("coords", data=bag.xy)
        coords.attrs.update(
            {
                "patch_size": round(bag.span_px),
                "patch_level": 0,
                "name": bag.slide_id,
                "tile_px": bag.tile_px,
                "span_px": bag.span_px,
                "mpp": bag.mpp,
                "encoder_sha256": bag.encoder_sha256 or "",
                "pathgene_rt_version": version("pathgene-rt"),
            }
        )
        file.attrs["complete"] = True


def read_features(path: Path) -> FeatureBag:
    """Read a features file of ours, CLAM or TRIDENT. Raises FeatureFileError."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            features = _dataset(file, "features", path)
            coords = _dataset(file, "coords", path)
            attributes = {**file["features"].attrs, **file["coords"].attrs}
    except OSError as error:
        raise FeatureFileError(f"{path} is no features file: {_first_line(error)}") from error
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]
    if features.ndim != 2 or coords.shape != (len(features), 2) or len(features) == 0:
        raise FeatureFileError(
            f"{path} holds features {features.shape} and coords {coords.shape}; expected [N, D] "
            "and [N, 2]; extract the slide again"
        )
    features = np.ascontiguousarray(features, dtype=np.float32)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        tile = int(np.flatnonzero(~finite)[0])
        raise FeatureFileError(f"{path} holds NaN or infinity for tile {tile}; extract it again")
    xy = np.rint(coords).astype(np.int32)
    tile_px = round(_number(attributes, "tile_px", "target_patch_size", "patch_size") or 256)
    span_px = _number(attributes, "span_px", "patch_size_level0") or _spacing(xy) or tile_px
    return FeatureBag(
        slide_id=path.stem,
        features=features,
        xy=xy,
        tile_px=tile_px,
        mpp=_number(attributes, "mpp") or math.nan,
        span_px=float(span_px),
        encoder_sha256=_text(attributes, "encoder_sha256"),
    )


def is_complete_features(path: Path) -> bool:
    """Whether ``path`` is a whole features file of ours (cheap: reads no array)."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("complete", False))
    except OSError:
        return False


def _dataset(file: Any, name: str, path: Path) -> Any:
    if name not in file:
        raise FeatureFileError(f"{path} has no dataset {name!r}; extract the slide again")
    return file[name][()]


def _number(attributes: Mapping[str, Any], *names: str) -> float | None:
    """The first of ``names`` that is a positive number."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, int | float | np.number) and value > 0:
            return float(value)
    return None


def _text(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    return str(value) if isinstance(value, str) and value else None


def _spacing(xy: Int32Array) -> float | None:
    """The smallest distance between columns or rows: the tile width of files that do not say."""
    steps = np.concatenate([np.diff(np.unique(xy[:, 0])), np.diff(np.unique(xy[:, 1]))])
    return float(steps.min()) if len(steps) else None


def _first_line(error: OSError) -> str:
    return reason(error).splitlines()[0]
