"""A slide's bag: the features of its tiles and where they lie, in memory and on disk.

``bag`` is the features in memory, ``growing`` on their way from the encoder, ``hdf5`` on disk as
CLAM lays them out; ``pooling`` joins the bags of a case's slides. ``tile_flags`` is what checks of
quality found of a bag's tiles, ``stored_flags`` where a file says it, ``left_out`` which of them
heads see. Imports bundle and the root only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.features.bag import FeatureBag
    from pathgene_rt.features.hdf5 import read_features, write_features
    from pathgene_rt.features.left_out import UsableTiles, usable_tiles
    from pathgene_rt.features.pooling import pool_bags
    from pathgene_rt.features.tile_flags import TileFlags

__all__ = [
    "FeatureBag",
    "TileFlags",
    "UsableTiles",
    "pool_bags",
    "read_features",
    "usable_tiles",
    "write_features",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FeatureBag": "bag",
        "TileFlags": "tile_flags",
        "UsableTiles": "left_out",
        "pool_bags": "pooling",
        "read_features": "hdf5",
        "usable_tiles": "left_out",
        "write_features": "hdf5",
    },
)
