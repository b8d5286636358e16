"""Golden tiles: the pixels on which every engine's outputs are compared with torch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pathgene_rt.errors import UsageError
from pathgene_rt.geometry import Int64Array, UInt8Array
from pathgene_rt.model_spec import Preprocess
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.tiling import plan_grid, read_tile, tissue_shares
from pathgene_rt.tissue import find_tissue
from pathgene_rt.training.synthetic import tissue_tiles

GOLDEN_TILES = 48
"""Enough for the median distance between tiles, which the fidelity error is in units of."""

_COLUMNS = 8


def generated_tiles(preprocess: Preprocess) -> UInt8Array:
    """Tiles of generated tissue, uint8 [48, tile_px, tile_px, 3], the same each time."""
    return tissue_tiles(GOLDEN_TILES, tile_px=preprocess.tile_px, seed=0)


def tiles_from_slides(slides: Sequence[Path], preprocess: Preprocess) -> UInt8Array:
    """Tissue tiles spread evenly over ``slides``, read as `predict` reads them.

    uint8 [48, tile_px, tile_px, 3], the same each time. Raises :class:`UsageError` if the slides
    hold too few tissue tiles or do not say their scale, and :class:`SlideError` if one cannot be
    read.
    """
    chosen: list[UInt8Array] = []
    for left, path in zip(range(len(slides), 0, -1), slides, strict=True):
        # What a slide with little tissue leaves over is shared by those that follow it.
        share = -(-(GOLDEN_TILES - len(chosen)) // left)
        chosen.extend(_tiles_of(path, preprocess, share))
    if len(chosen) < GOLDEN_TILES:
        raise UsageError(
            f"the golden slides hold {len(chosen)} tissue tiles of {preprocess.tile_px} px at "
            f"{preprocess.mpp:g} um/px, {GOLDEN_TILES} are needed; name more slides with --golden"
        )
    return np.stack(chosen)


def golden_coords(count: int) -> Int64Array:
    """Places of golden tiles in their bag, int64 [count, 2] as (column, row): rows of eight.

    Golden tiles come from several slides, so that no places of their own would fit together.
    """
    numbers = np.arange(count, dtype=np.int64)
    return np.stack([numbers % _COLUMNS, numbers // _COLUMNS], axis=1)


def _tiles_of(path: Path, preprocess: Preprocess, count: int) -> UInt8Array:
    """Up to ``count`` tissue tiles of one slide, evenly spaced in reading order."""
    options = TissueOptions()
    with open_slide(path) as slide:
        mpp = slide.info.mpp
        if mpp is None:
            raise UsageError(
                f"the golden slide {path} does not say its micrometres per pixel; choose another"
            )
        mask, _ = find_tissue(slide, options)
        grid = plan_grid(slide.info, preprocess, mask, options)
        corners = grid.xy
        if len(corners) < count:
            # A small slide: tiles between the grid's own are tissue like any other.
            between = corners + np.int32(round(grid.span_px / 2))
            inside = (between + grid.span_px <= slide.info.size_px).all(axis=1)
            tissue = tissue_shares(mask, mpp, between, grid.span_px) >= options.min_tile_share
            corners = np.concatenate([corners, between[inside & tissue]])
        steps = np.linspace(0, len(corners) - 1, min(count, len(corners)))
        chosen = corners[np.unique(np.rint(steps).astype(np.intp))]
        tiles = np.empty((len(chosen), grid.tile_px, grid.tile_px, 3), np.uint8)
        for tile, xy in zip(tiles, chosen.tolist(), strict=True):
            read_tile(slide, grid, tuple(xy), preprocess.reduction, tile)
    return tiles
