"""Bags of features on disk, one HDF5 file a slide, laid out as CLAM does.

Datasets ``features`` float32 [N, D] and ``coords`` int32 [N, 2] (level-0 top-left corners), whose
attributes :mod:`~pathgene_rt.features.tile_attributes` lists. CLAM's own files, which have no
attributes, and TRIDENT's are read too.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.errors import (
    FeatureFileError,
    FileAccessError,
    OutputError,
    UsageError,
    said_by,
)
from pathgene_rt.features.bag import (
    LONE_TILE_SPAN_PX,
    FeatureBag,
    first_not_finite,
    tile_spacing_px,
)
from pathgene_rt.features.hdf5_worker import UnsafeFileError
from pathgene_rt.features.layouts import COORDS, FEATURES, features_name, places_of, rows_of
from pathgene_rt.features.safe_hdf5 import SafeHdf5File, open_hdf5
from pathgene_rt.features.stored_flags import TILE_FLAGS, read_flags, write_flags
from pathgene_rt.features.tile_attributes import OURS, Origin, TileAttributes, written_attributes
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.files import atomic_path
from pathgene_rt.geometry import Float32Array, Int32Array
from pathgene_rt.package_versions import package_version

_EXTRACT_AGAIN = "extract the slide again"


def write_features(path: Path, bag: FeatureBag, origin: Origin | None = None) -> None:
    """Write ``bag``, and where it is from, to ``path``, whole or not at all. Raises OutputError,
    UsageError if it is empty.

    HDF5 only lays the file out, in memory and without the features; Python writes it. When a disk
    fills up under HDF5 itself, the process dies of a segmentation fault (h5py 3.16, HDF5 2.0.0).
    """
    if bag.features.size == 0:
        raise UsageError(f"{bag.slide_id}: has no features to write to {path}")
    features = np.ascontiguousarray(bag.features, dtype=np.float32)
    layout, offset = features_layout(bag, rows_crc32(bag.xy, features), origin)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(layout)
        file.seek(offset)
        file.write(features.data)
        file.flush()
        os.fsync(file.fileno())


def rows_crc32(xy: Int32Array, features: Float32Array) -> int:
    """The checksum of a bag's rows, as they are stored: corners [N, 2], then features [N, D]."""
    corners = np.ascontiguousarray(xy, dtype="<i4")
    return zlib.crc32(np.ascontiguousarray(features, dtype="<f4").data, zlib.crc32(corners.data))


def features_layout(
    bag: FeatureBag, checksum: int, origin: Origin | None = None
) -> tuple[bytes, int]:
    """The file of ``bag`` up to where its features [N, D] belong, and that place in bytes.

    The features are allocated last and never filled, so the file ends with them. The place does not
    depend on the ``checksum`` (:func:`rows_crc32`) or on what flags say, so that the features can
    be written before these are known.
    """
    import h5py

    layout = io.BytesIO()
    with h5py.File(layout, "w") as file:
        file.attrs[OURS] = package_version("pathgene-rt")  # near the file's begin: see is_ours
        coords = file.create_dataset("coords", data=np.asarray(bag.xy, dtype=np.int32))
        coords.attrs.update(written_attributes(bag, checksum, origin or Origin()))
        if bag.flags is not None:
            write_flags(file, bag.flags)
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
    stored = layout.getvalue()
    if offset is None or offset < len(stored):
        raise OutputError(
            f"h5py {h5py.version.version} lays files out in an unknown way; install another"
        )
    # A copy: with a view of the buffer, Python 3.12 dies where an error ends the write.
    return stored, offset


def read_features(path: Path) -> FeatureBag:
    """Read a features file of ours, of CLAM, TRIDENT, STAMP or AtlasPatch
    (:mod:`~pathgene_rt.features.layouts`).

    The slide id is the one stated by us, else the file's stem. A span that is not stated is the
    distance of neighbouring tiles; a magnification is not taken for a scale. Of STAMP's, whose
    places are in micrometres, level 0 is taken to have the tiles' scale. Raises
    FeatureFileError, also if the rows do not have the checksum that was written with them;
    FileAccessError where nothing can be said about the content.
    """
    return read_attributed(path)[0]


def read_attributed(path: Path) -> tuple[FeatureBag, TileAttributes]:
    """As :func:`read_features`, with what the file states beside the bag."""
    with _opened(path) as file:
        stored = _stored(file, path)
    return _checked(path, *stored)


def read_placed_or_alone(path: Path) -> FeatureBag | Float32Array:
    """As :func:`read_features`; of a file that has no places of its tiles, its features float32
    [N, D]. Raises FeatureFileError, FileAccessError."""
    with _opened(path) as file:
        if file.shape(COORDS) is not None:
            stored = _stored(file, path)
        else:
            stored = None
            alone = rows_of(file, features_name(file, path, _EXTRACT_AGAIN), path, _EXTRACT_AGAIN)
    if stored is not None:
        return _checked(path, *stored)[0]
    features = _of_tiles(alone, path)
    require_finite(features, "features", path)
    return features


def _of_tiles(rows: NDArray[Any], path: Path) -> Float32Array:
    """``rows`` [N, D] as float32. Raises FeatureFileError if there are none."""
    if rows.size == 0:
        raise FeatureFileError(f"{path}: holds no tile; {_EXTRACT_AGAIN}")
    return np.ascontiguousarray(rows, dtype=np.float32)


_Stored = tuple[NDArray[Any], NDArray[Any], TileAttributes, TileFlags | None]


def _stored(file: SafeHdf5File, path: Path) -> _Stored:
    """Features, places, attributes and flags, as they are."""
    name = features_name(file, path, _EXTRACT_AGAIN)
    features = rows_of(file, name, path, _EXTRACT_AGAIN)
    attributes = _attributes(file, path, name, COORDS)
    coords = places_of(file, attributes, path, _EXTRACT_AGAIN)
    flags = read_flags(file, len(features), path) if attributes.ours else None
    return features, coords, attributes, flags


def _checked(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[Any],
    attributes: TileAttributes,
    flags: TileFlags | None,
) -> tuple[FeatureBag, TileAttributes]:
    features = _of_tiles(features, path)
    xy = corners(coords, len(features), path)
    if attributes.rows_crc32 not in (None, rows_crc32(xy, features)):
        raise FeatureFileError(
            f"{path}: its rows are not those that were written (another checksum): the file is "
            f"damaged or was changed; {_EXTRACT_AGAIN}"
        )
    tile = first_not_finite(features)
    if tile is not None:
        raise FeatureFileError(
            f"{path}: features of tile {tile} (x {xy[tile, 0]}, y {xy[tile, 1]}) hold NaN or "
            f"infinity; {_EXTRACT_AGAIN}"
        )
    bag = FeatureBag(
        slide_id=attributes.slide_id or path.stem,
        features=features,
        xy=xy,
        tile_px=attributes.tile_px,
        mpp=attributes.mpp,
        span_px=_span_px(attributes, xy),
        encoder_sha256=attributes.encoder_sha256,
        flags=flags,
    )
    return bag, attributes


def read_places(path: Path, tiles: int) -> tuple[Int32Array, float]:
    """(corners int32 [tiles, 2], level-0 pixels a tile spans) of a coordinates or features file.

    For features that are kept apart from their coordinates, in the same order. Raises
    FeatureFileError, also if the file is not about that many ``tiles``.
    """
    with _opened(path) as file:
        attributes = _attributes(file, path, COORDS)
        coords = places_of(file, attributes, path, _EXTRACT_AGAIN)
    xy = corners(coords, tiles, path)
    return xy, _span_px(attributes, xy)


def read_coords(path: Path) -> tuple[NDArray[Any], TileAttributes]:
    """(``coords`` [N, 2] as stored, attributes) of a coordinates file of CLAM or TRIDENT, or of a
    features file. Raises FeatureFileError.
    """
    advice = "give CLAM's or TRIDENT's coordinates file"
    with _opened(path, advice) as file:
        attributes = _attributes(file, path, COORDS)
        if attributes.in_um:
            raise FeatureFileError(f"{path}: has its coords in um, not in pixels; {advice}")
        coords = places_of(file, attributes, path, advice)
    if coords.shape[1] != 2:
        raise FeatureFileError(
            f"{path}: 'coords' is {list(coords.shape)}, not [tiles, 2]; {advice}"
        )
    return coords, attributes


def read_attributes(path: Path) -> TileAttributes:
    """What a features or coordinates file states, without its rows. Raises FeatureFileError,
    FileAccessError."""
    with _opened(path) as file:
        return _attributes(file, path, COORDS)


def is_complete_features(path: Path, encoder_sha256: str | None = None) -> bool:
    """Whether ``path`` is a whole features file of ours, by that encoder if one is given.

    Reads all of it, for its checksum. Raises FileAccessError where that is not possible.
    """
    try:
        bag, attributes = read_attributed(path)
    except FeatureFileError:
        return False
    return attributes.ours and encoder_sha256 in (None, bag.encoder_sha256)


def is_ours(path: Path) -> bool:
    """Whether the file ``path``, damaged as it may be, was begun by us. Raises FileAccessError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(OURS.encode()) >= 0
    except ValueError:  # empty
        return False
    except OSError as error:
        raise _not_now(path, error) from error


def require_finite(array: NDArray[Any], name: str, path: Path) -> None:
    """Raise FeatureFileError naming the first tile whose row of ``array`` [N, columns] has NaN or
    infinity."""
    tile = first_not_finite(array)
    if tile is not None:
        raise FeatureFileError(
            f"{path}: {name} of tile {tile} hold NaN or infinity; {_EXTRACT_AGAIN}"
        )


@contextmanager
def _opened(path: Path, advice: str = _EXTRACT_AGAIN) -> Iterator[SafeHdf5File]:
    """The HDF5 file. What is wrong or unsafe about its content becomes FeatureFileError, what the
    system says of reading it FileAccessError."""
    try:
        if not path.is_file():
            missing = "run pathgene-rt extract first" if advice == _EXTRACT_AGAIN else advice
            raise FeatureFileError(f"{path}: there is no such file; {missing}")
        with open_hdf5(path, FEATURES, COORDS, TILE_FLAGS) as file:
            yield file
    except FeatureFileError:
        raise
    except (OSError, UnsafeFileError) as error:
        if isinstance(error, OSError) and error.errno:
            raise _not_now(path, error) from error
        raise FeatureFileError(
            f"{path}: cannot be read as HDF5 ({said_by(error)}); {advice}"
        ) from error


def _not_now(path: Path, error: OSError) -> FileAccessError:
    """What the system answers (a lock, no permission, a failing disk) says nothing of content."""
    assert error.errno is not None
    why = os.strerror(error.errno)
    if isinstance(error, BlockingIOError):
        why = "another program has it open"
    return FileAccessError(f"{path}: cannot be read now ({why}); try again when it can")


def _attributes(file: SafeHdf5File, path: Path, *datasets: str) -> TileAttributes:
    """The attributes of the file and of ``datasets``; the last one's go before."""
    return TileAttributes(path, file.attributes(*datasets))


def corners(coords: NDArray[Any], tiles: int, path: Path) -> Int32Array:
    """``coords`` of the file ``path`` as int32 [tiles, 2], if they are corners of that many tiles.
    Raises FeatureFileError."""
    if coords.shape != (tiles, 2):
        raise FeatureFileError(
            f"{path}: {tiles} features and coords {list(coords.shape)} do not belong together; "
            f"expected coords [{tiles}, 2], {_EXTRACT_AGAIN}"
        )
    require_finite(coords, "coords", path)
    if np.abs(coords).max() > np.iinfo(np.int32).max:
        raise FeatureFileError(f"{path}: coords are no level-0 pixels; {_EXTRACT_AGAIN}")
    xy: Int32Array = np.rint(coords).astype(np.int32)
    return xy


def _span_px(attributes: TileAttributes, xy: Int32Array) -> float:
    """Level-0 pixels a tile spans: as stated, else as the tiles lie."""
    return attributes.span_px or tile_spacing_px(xy) or float(LONE_TILE_SPAN_PX)
