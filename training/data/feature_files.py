"""Features that a head is trained on: which files a folder holds, and what one of them says.

HDF5 of ours, of CLAM, TRIDENT, STAMP and AtlasPatch is read as the runtime reads it. CLAM's ``.pt``
holds the features alone, a tensor [n, D]; the tiles' places are in another file of the same slide.
Others save a dict of ``features`` and ``coords``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from pathgene_rt.errors import CheckpointError, FeatureFileError, UsageError
from pathgene_rt.evaluation.labels import listed
from pathgene_rt.features.bag import LONE_TILE_SPAN_PX, FeatureBag, tile_spacing_px
from pathgene_rt.features.hdf5 import (
    corners,
    read_placed_or_alone,
    read_places,
    require_finite,
)
from pathgene_rt.features.layouts import MAX_TILES, MAX_WIDTH
from pathgene_rt.geometry import Float32Array, Int32Array, Int64Array
from pathgene_rt.training.checkpoint import read_torch_file

_PT, _HDF5 = ".pt", ".h5"
_CLAM_FOLDERS = ("pt_files", "h5_files")
_TRIDENT_FOLDERS = ("features_*", "*_overlap/features_*")
_PLACES_FOLDERS = ("h5_files", "patches")
_PLACES_NAMES = ("{}.h5", "{}_patches.h5")
_ENTRIES = ("features", "feats")
"""What dicts of features call them."""


@dataclass(frozen=True)
class UnplacedBag(FeatureBag):
    """A bag of the file ``source`` whose tiles' places are in no file at hand.

    ``xy`` is 0; :attr:`coords` raises FeatureFileError, so that heads without positions can be
    trained on it and others cannot.
    """

    source: Path

    @property
    @override
    def coords(self) -> Int64Array:
        raise FeatureFileError(
            f"{self.source}: holds features without coordinates, which this head needs; set "
            "data.coords to the folder of CLAM's patches/*.h5 or of its h5_files"
        )


def find_feature_files(folder: Path) -> dict[str, Path]:
    """The features files of ``folder`` by slide id: <slide_id>.h5 or .pt.

    The folder itself holds them, or it is laid out as CLAM does (``h5_files/``, ``pt_files/``) or
    TRIDENT (``features_<encoder>/``, or the job folder above it). Of a slide in both formats HDF5
    is taken, which has coordinates. Raises :class:`UsageError` if there is no such folder, or if
    it has the features of several encoders.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no features folder {folder}; run pathgene-rt extract first")
    holders = [folder, *(folder / name for name in _CLAM_FOLDERS)]
    found = {
        path.stem: path
        for ending in (_PT, _HDF5)
        for holder in holders
        for path in sorted(holder.glob("*" + ending))
        if not path.name.startswith(".")
    }
    if found:
        return found
    extracted = sorted(path for pattern in _TRIDENT_FOLDERS for path in folder.glob(pattern))
    if len(extracted) > 1:
        names = [path.relative_to(folder).as_posix() for path in extracted]
        raise UsageError(
            f"{folder} has features of {len(extracted)} extractions ({listed(names)}); set "
            "data.features to one of them"
        )
    return {path.stem: path for path in extracted[0].glob("*" + _HDF5)} if extracted else {}


def read_bag(path: Path, places: Path | None = None) -> FeatureBag:
    """Read one features file.

    Places of tiles that are not in the file itself are those of <slide_id>.h5 (TRIDENT:
    <slide_id>_patches.h5) in the folder ``places``; without one, of the folders ``h5_files`` or
    ``patches`` beside its own, and if they have none the bag is an :class:`UnplacedBag`. Raises
    FeatureFileError.
    """
    if path.suffix == _PT:
        features, own = _read_tensor(path)
        if own is not None:
            span_px = tile_spacing_px(own) or float(LONE_TILE_SPAN_PX)
            return FeatureBag(path.stem, features, own, 0, math.nan, span_px, None)
    else:
        found = read_placed_or_alone(path)
        if isinstance(found, FeatureBag):
            return found
        features = found
    if places is None:
        beside = (path.parent.parent / name for name in _PLACES_FOLDERS)
        source = next((file for folder in beside if (file := _places_of(path, folder))), None)
    else:
        source = _places_of(path, places)
        if source is None:
            raise FeatureFileError(
                f"{path}: {places} has no coordinates {path.stem}.h5 for it; add them"
            )
    if source is None:
        corners = np.zeros((len(features), 2), np.int32)
        span_px = float(LONE_TILE_SPAN_PX)
        return UnplacedBag(path.stem, features, corners, 0, math.nan, span_px, None, path)
    xy, span_px = read_places(source, len(features))
    return FeatureBag(path.stem, features, xy, 0, math.nan, span_px, None)


def _places_of(path: Path, folder: Path) -> Path | None:
    files = (folder / name.format(path.stem) for name in _PLACES_NAMES)
    return next((file for file in files if file.is_file()), None)


def _read_tensor(path: Path) -> tuple[Float32Array, Int32Array | None]:
    """CLAM's features float32 [n, D]; also [1, n, D] and half precision. Others' dicts of
    ``features`` and ``coords`` also give the places int32 [n, 2]."""
    try:
        content = read_torch_file(path)
    except CheckpointError as error:
        why = f"is no file of features ({error}); extract the slide again"
        if "_reconstruct" in str(error.__cause__):
            why = (
                "holds a numpy array, which only its own code unpickles; save it again with "
                "torch.save(torch.from_numpy(array), ...)"
            )
        raise FeatureFileError(f"{path}: {why}") from error
    coords = None
    if isinstance(content, Mapping):
        coords = content.get("coords")
        content = next((content[name] for name in _ENTRIES if name in content), content)
    if not isinstance(content, Tensor):
        raise FeatureFileError(
            f"{path}: holds a {type(content).__name__}, not a tensor of features [tiles, D]; "
            "is it a checkpoint?"
        )
    features = _features(content, path)
    if coords is None:
        return features, None
    if not isinstance(coords, Tensor):
        raise FeatureFileError(
            f"{path}: its coords are a {type(coords).__name__}, not a tensor [tiles, 2]; "
            "extract the slide again"
        )
    return features, corners(coords.detach().numpy(), len(features), path)


def _features(content: Tensor, path: Path) -> Float32Array:
    tensor = content[0] if content.ndim == 3 and len(content) == 1 else content
    if tensor.ndim != 2 or tensor.shape[0] > MAX_TILES or not 0 < tensor.shape[1] <= MAX_WIDTH:
        raise FeatureFileError(
            f"{path}: holds a tensor of shape {list(content.shape)}, not [tiles, D]; "
            "extract the slide again"
        )
    if len(tensor) == 0:
        raise FeatureFileError(f"{path}: holds no tile; extract the slide again")
    if not tensor.is_floating_point():
        raise FeatureFileError(f"{path}: holds {tensor.dtype}, not features; extract again")
    features: Float32Array = tensor.detach().to(torch.float32).contiguous().numpy()
    require_finite(features, "features", path)
    return features
