"""Bags of features, in memory and on disk as CLAM writes them.

One HDF5 file a slide: datasets ``features`` float32 [N, D] and ``coords`` int32 [N, 2] (level-0
top-left corners). ``coords`` carries CLAM's attributes (``patch_size`` and ``patch_level``, here
always in level-0 pixels, ``downsample``, ``name``) and ours (``tile_px``, ``span_px``, ``mpp``,
``slide_id``, ``encoder_sha256``, ``pathgene_rt_version``). CLAM's own files, which have no
attributes, and TRIDENT's are read too.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import FeatureFileError, OutputError, UsageError
from pathgene_rt.files import atomic_path
from pathgene_rt.geometry import Float32Array, Int32Array, Int64Array, grid_coords

MAX_TILES = 20_000_000
MAX_WIDTH = 65_536
LONE_TILE_SPAN_PX = 256
"""The span of a single tile whose file does not state it: with no neighbour it changes nothing."""


@dataclass(frozen=True)
class FeatureBag:
    """The features of one slide's tiles.

    ``features`` float32 [N, D]; ``xy`` int32 [N, 2], level-0 top-left corners; tiles are
    ``tile_px`` pixels of ``mpp`` um, ``span_px`` level-0 pixels wide. Where a file of another tool
    does not say, ``tile_px`` is 0, ``mpp`` NaN and ``encoder_sha256`` None. Raises UsageError if
    the arrays do not belong together.
    """

    slide_id: str
    features: Float32Array
    xy: Int32Array
    tile_px: int
    mpp: float
    span_px: float
    encoder_sha256: str | None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.xy.shape != (len(self.features), 2):
            raise UsageError(
                f"{self.slide_id}: features of shape {self.features.shape} do not go with corners "
                f"of shape {self.xy.shape}; give [N, D] and [N, 2]"
            )

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def first_not_finite(self) -> int | None:
        """The first tile whose features hold NaN or infinity."""
        return first_not_finite(self.features)

    @property
    def coords(self) -> Int64Array:
        """int64 [N, 2]: (column, row) of each tile in units of tiles."""
        return grid_coords(self.xy, self.span_px)


def write_features(path: Path, bag: FeatureBag) -> None:
    """Write ``bag`` to ``path``, whole or not at all. Raises OutputError, UsageError if empty.

    HDF5 only lays the file out, in memory and without the features; Python writes it. When a disk
    fills up under HDF5 itself, the process dies of a segmentation fault (h5py 3.16, HDF5 2.0.0).
    """
    if bag.features.size == 0:
        raise UsageError(f"{bag.slide_id}: has no features to write to {path}")
    features = np.ascontiguousarray(bag.features, dtype=np.float32)
    layout, offset = features_layout(bag)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(layout)
        file.seek(offset)
        file.write(features.data)
        file.flush()
        os.fsync(file.fileno())


def features_layout(bag: FeatureBag, run_sha256: str = "") -> tuple[memoryview, int]:
    """The file of ``bag`` up to where its features [N, D] belong, and that place in bytes.

    The features are allocated last and never filled, so the file ends with them. ``run_sha256``
    becomes an attribute (:func:`run_of`).
    """
    import h5py

    layout = io.BytesIO()
    with h5py.File(layout, "w") as file:
        coords = file.create_dataset("coords", data=np.asarray(bag.xy, dtype=np.int32))
        coords.attrs.update(
            {
                "patch_size": round(bag.span_px),
                "patch_level": 0,
                "downsample": np.ones(2),
                "name": bag.slide_id,
                "slide_id": bag.slide_id,
                "tile_px": bag.tile_px,
                "span_px": bag.span_px,
                "mpp": bag.mpp,
                "encoder_sha256": bag.encoder_sha256 or "",
                "pathgene_rt_version": version("pathgene-rt"),
                **({"run_sha256": run_sha256} if run_sha256 else {}),
            }
        )
        empty = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        empty.set_obj_track_times(False)  # the same features are the same file
        empty.set_layout(h5py.h5d.CONTIGUOUS)
        empty.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        empty.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        features = h5py.h5d.create(
            file.id,
            b"features",
            h5py.h5t.IEEE_F32LE,
            h5py.h5s.create_simple(bag.features.shape),
            empty,
        )
        offset = features.get_offset()
    if offset is None or offset < layout.getbuffer().nbytes:
        raise OutputError(
            f"h5py {h5py.version.version} lays files out in an unknown way; install another"
        )
    return layout.getbuffer(), offset


def read_features(path: Path) -> FeatureBag:
    """Read a features file of ours, of CLAM or of TRIDENT (also its features [1, N, D]).

    The slide id is the one stated by us, else the file's stem. A span that is not stated is the
    distance of neighbouring tiles; a magnification is not taken for a scale. Raises
    FeatureFileError.
    """
    with _opened(path) as file:
        features = _array(file, "features", path)
        coords = _array(file, "coords", path)
        attributes = _attributes(file, "features", "coords")
    if features.size == 0:
        raise FeatureFileError(f"{path}: holds no tile; extract the slide again")
    features = np.ascontiguousarray(features, dtype=np.float32)
    xy = _corners(coords, len(features), path)
    tile = first_not_finite(features)
    if tile is not None:
        raise FeatureFileError(
            f"{path}: features of tile {tile} (x {xy[tile, 0]}, y {xy[tile, 1]}) hold NaN or "
            "infinity; extract the slide again"
        )
    ours = "pathgene_rt_version" in attributes
    stated_id = _text(attributes, "slide_id")
    return FeatureBag(
        slide_id=stated_id if ours and stated_id else path.stem,
        features=features,
        xy=xy,
        tile_px=round(_positive(attributes, "tile_px") or _trident_tile_px(attributes) or 0),
        mpp=_positive(attributes, "mpp") or math.nan,
        span_px=_span_px(attributes, xy),
        encoder_sha256=_text(attributes, "encoder_sha256"),
    )


def read_places(path: Path, tiles: int) -> tuple[Int32Array, float]:
    """(corners int32 [tiles, 2], level-0 pixels a tile spans) of a coordinates or features file.

    For features that are kept apart from their coordinates, in the same order. Raises
    FeatureFileError, also if the file is not about that many ``tiles``.
    """
    with _opened(path) as file:
        coords = _array(file, "coords", path)
        attributes = _attributes(file, "coords")
    xy = _corners(coords, tiles, path)
    return xy, _span_px(attributes, xy)


def is_complete_features(path: Path, encoder_sha256: str | None = None) -> bool:
    """Whether ``path`` is a whole features file of ours, by that encoder if one is given.

    Cheap: reads shapes and attributes only. Files appear under their name when they are whole.
    """
    try:
        with _opened(path) as file:
            features, coords = file["features"], file["coords"]
            return (
                "pathgene_rt_version" in coords.attrs
                and len(features) == len(coords) > 0
                and encoder_sha256 in (None, _text(coords.attrs, "encoder_sha256"))
            )
    except FeatureFileError:
        return False


def run_of(path: Path) -> str | None:
    """The identity of the run that wrote the features file ``path``, if it is whole and says so."""
    if not is_complete_features(path):
        return None
    with _opened(path) as file:
        return _text(_attributes(file, "coords"), "run_sha256")


def tile_spacing_px(xy: Int32Array) -> float | None:
    """The most frequent distance to the next tile of the same row or column; None if all are alone.

    Not the smallest distance: CLAM starts a grid at every contour, and such grids do not line up.
    """
    steps = []
    for along, across in ((0, 1), (1, 0)):
        ordered = xy[np.lexsort((xy[:, along], xy[:, across]))].astype(np.int64)
        step = np.diff(ordered, axis=0)
        steps.append(step[(step[:, across] == 0) & (step[:, along] > 0), along])
    distances, counts = np.unique(np.concatenate(steps), return_counts=True)
    return float(distances[counts.argmax()]) if len(distances) else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The HDF5 file; whatever h5py raises about its content becomes FeatureFileError."""
    import h5py

    if not path.is_file():
        raise FeatureFileError(f"{path}: there is no such file; run pathgene-rt extract first")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FeatureFileError):
            raise
        raise FeatureFileError(
            f"{path}: is no HDF5 features file ({_one_line(error)}); extract the slide again"
        ) from error


def _array(file: Any, name: str, path: Path) -> NDArray[Any]:
    """Dataset ``name`` as [N, columns]. Its size is checked before memory is taken for it."""
    import h5py

    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise FeatureFileError(f"{path}: has no dataset {name!r}; extract the slide again")
    shape = data.shape[1:] if data.ndim == 3 and data.shape[0] == 1 else data.shape
    if len(shape) != 2 or shape[0] > MAX_TILES or shape[1] > MAX_WIDTH:
        raise FeatureFileError(
            f"{path}: dataset {name!r} has the shape {list(data.shape)}, not [tiles, columns]; "
            "extract the slide again"
        )
    if data.dtype.kind not in "iuf":
        raise FeatureFileError(f"{path}: dataset {name!r} holds {data.dtype}, not numbers")
    try:
        array: NDArray[Any] = data[()].reshape(shape)
    except MemoryError as error:
        raise FeatureFileError(f"{path}: {name!r} {list(shape)} does not fit in memory") from error
    return array


def _attributes(file: Any, *datasets: str) -> dict[str, Any]:
    """The attributes of the file and of ``datasets``; the last one's go before."""
    holders = (file, *(file[name] for name in datasets))
    return {key: value for holder in holders for key, value in holder.attrs.items()}


def _corners(coords: NDArray[Any], tiles: int, path: Path) -> Int32Array:
    """``coords`` as int32 [tiles, 2] if they are level-0 corners of that many tiles."""
    if coords.shape != (tiles, 2):
        raise FeatureFileError(
            f"{path}: {tiles} features and coords {list(coords.shape)} do not belong together; "
            f"expected coords [{tiles}, 2], extract the slide again"
        )
    require_finite(coords, "coords", path)
    if np.abs(coords).max() > np.iinfo(np.int32).max:
        raise FeatureFileError(f"{path}: coords are no level-0 pixels; extract the slide again")
    xy: Int32Array = np.rint(coords).astype(np.int32)
    return xy


def _span_px(attributes: Mapping[str, Any], xy: Int32Array) -> float:
    """Level-0 pixels a tile spans: as stated, else as the tiles lie."""
    return _stated_span_px(attributes) or tile_spacing_px(xy) or float(LONE_TILE_SPAN_PX)


def require_finite(array: NDArray[Any], name: str, path: Path) -> None:
    """Raise FeatureFileError naming the first tile whose row of ``array`` [N, columns] has NaN or
    infinity."""
    tile = first_not_finite(array)
    if tile is not None:
        raise FeatureFileError(
            f"{path}: {name} of tile {tile} hold NaN or infinity; extract the slide again"
        )


def first_not_finite(array: NDArray[Any]) -> int | None:
    """The first row of ``array`` [N, columns] with NaN or infinity, None if there is none."""
    # A row's sum is finite only if all of it is, and needs no [N, D] mask; it may also overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(array.sum(axis=1)))
    damaged = suspects[~np.isfinite(array[suspects]).all(axis=1)]
    return int(damaged[0]) if len(damaged) else None


def _stated_span_px(attributes: Mapping[str, Any]) -> float | None:
    """Level-0 pixels a tile spans by our, TRIDENT's or CLAM's attributes."""
    stated = _positive(attributes, "span_px") or _positive(attributes, "patch_size_level0")
    if stated is not None or "patch_level" not in attributes:
        return stated
    size = _positive(attributes, "patch_size")
    downsample = _positive(attributes, "downsample")
    if downsample is None and attributes["patch_level"] == 0:
        downsample = 1.0
    return size * downsample if size is not None and downsample is not None else None


def _trident_tile_px(attributes: Mapping[str, Any]) -> float | None:
    return _positive(attributes, "patch_size") if "patch_size_level0" in attributes else None


def _positive(attributes: Mapping[str, Any], name: str) -> float | None:
    """Attribute ``name`` (the mean where it is x and y) if it is a number above 0."""
    value = np.asarray(attributes.get(name, 0))
    if value.dtype.kind not in "iuf" or value.size == 0:
        return None
    number = float(value.mean())
    return number if 0 < number < math.inf else None


def _text(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return str(value) if isinstance(value, str) and value else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
