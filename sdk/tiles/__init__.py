"""Which parts of a slide are encoded: tissue, the grid of tiles, and the order they are read in.

``tissue`` finds it, ``grid`` lays tiles over it at the bundle's scale, ``external_coords`` takes
the coordinates of CLAM and TRIDENT instead, ``read_order`` and ``balanced_order`` order tiles for
disks and for early answers, ``sample`` takes some. Imports features, slides, bundle and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.tiles.external_coords import grid_from_coords
    from pathgene_rt.tiles.grid import plan_grid, read_tile
    from pathgene_rt.tiles.sample import sample_tiles
    from pathgene_rt.tiles.tissue import TissueMask, find_tissue

__all__ = [
    "TissueMask",
    "find_tissue",
    "grid_from_coords",
    "plan_grid",
    "read_tile",
    "sample_tiles",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "TissueMask": "tissue",
        "find_tissue": "tissue",
        "grid_from_coords": "external_coords",
        "plan_grid": "grid",
        "read_tile": "grid",
        "sample_tiles": "sample",
    },
)
