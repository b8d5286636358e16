"""Where a features file of ours says what checks of quality found of its tiles.

``tile_flags`` uint8 [N, K], 1 where a check flags the tile; its attribute ``names`` has the K names
joined by commas, the last of them "checked": whether the tile was looked at. ``crc32`` is of its
rows and names. The tiles are all there, with their places and features: which of them heads see is
decided by whoever reads the file (:mod:`~pathgene_rt.features.left_out`).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.features.safe_hdf5 import SafeHdf5File
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import UInt8Array

TILE_FLAGS = "tile_flags"
_CHECKED = "checked"
_MOST_CHECKS = 64


def write_flags(file: Any, flags: TileFlags) -> None:
    """Put ``flags`` into the h5py ``file``."""
    columns = [*flags.flags.values(), flags.checked]
    rows: UInt8Array = np.stack(columns, axis=1).astype(np.uint8)
    names = ",".join((*flags.flags, _CHECKED))
    stored = file.create_dataset(TILE_FLAGS, data=rows)
    stored.attrs["names"] = names
    stored.attrs["crc32"] = np.uint32(_crc32(rows, names))


def read_flags(file: SafeHdf5File, tiles: int, path: Path) -> TileFlags | None:
    """Those of ``tiles`` in ``file``, which is ours; None if it has none, as files of older
    versions. Raises FeatureFileError."""
    shape = file.shape(TILE_FLAGS)
    if shape is None:
        return None
    attributes = file.attributes(TILE_FLAGS)
    names = attributes.get("names")
    known = names.split(",") if isinstance(names, str) else []
    if len(shape) != 2 or shape[0] != tiles or not 1 <= shape[1] <= _MOST_CHECKS:
        raise _damaged(path)
    rows = file.rows(TILE_FLAGS)
    if (
        len(set(known)) != shape[1]
        or known[-1] != _CHECKED
        or rows.dtype != np.uint8
        or attributes.get("crc32") != _crc32(rows, ",".join(known))
    ):
        raise _damaged(path)
    found = rows.astype(np.bool_)
    return TileFlags(
        {name: found[:, column] for column, name in enumerate(known[:-1])}, found[:, -1]
    )


def _crc32(rows: UInt8Array, names: str) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(names.encode()))


def _damaged(path: Path) -> FeatureFileError:
    return FeatureFileError(
        f"{path}: {TILE_FLAGS!r} is not what was written: the file is damaged or was changed; "
        "extract the slide again"
    )
