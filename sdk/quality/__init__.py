"""What is wrong with single tiles: each check looks at every tile once, read or pushed.

``check`` says what a check is, ``inspection`` lists them and runs them on a slide's tiles;
``damaged``, ``focus``, ``pen``, ``bubble``, ``burnt`` and ``fold`` are the checks, ``squares`` what
most of them see. A new one is a file here and a line in ``inspection.TILE_CHECKS``. Imports tiles
and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.quality.check import CheckedSlide, CheckedTile, TileCheck
    from pathgene_rt.quality.inspection import TILE_CHECKS, TileInspection

__all__ = ["TILE_CHECKS", "CheckedSlide", "CheckedTile", "TileCheck", "TileInspection"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "TILE_CHECKS": "inspection",
        "CheckedSlide": "check",
        "CheckedTile": "check",
        "TileCheck": "check",
        "TileInspection": "inspection",
    },
)
