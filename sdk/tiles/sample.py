"""Some of a slide's tissue tiles: what goldens are made of and INT8 is calibrated on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.geometry import Int32Array, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.tiles.grid import plan_grid, plan_scale, read_tile, tissue_shares
from pathgene_rt.tiles.tissue import find_tissue


@dataclass(frozen=True)
class TileSample:
    """``tiles`` uint8 [n, tile_px, tile_px, 3] of a slide, read as `predict` reads them, with the
    level-0 top-left corners ``xy`` int32 [n, 2]; each spans ``span_px`` level-0 pixels.
    """

    slide_id: str
    tiles: UInt8Array
    xy: Int32Array
    span_px: float


def sample_by_both_rules(
    path: Path, preprocess: Preprocess, count: int
) -> tuple[UInt8Array, UInt8Array] | None:
    """Up to ``count`` tissue tiles of one slide by the level rules "nearest" and "finer", at the
    same places, uint8 [n, tile_px, tile_px, 3] each; None if both read the same level.

    Raises SlideError as :func:`sample_tiles` does.
    """
    options = TissueOptions()
    with open_slide(path) as slide:
        nearest = replace(preprocess, level_rule="nearest")
        finer = plan_scale(slide.info, replace(preprocess, level_rule="finer"))
        if plan_scale(slide.info, nearest).level == finer.level:
            return None
        mask, _ = find_tissue(slide, options)
        grid = plan_grid(slide.info, nearest, mask, options)
        other = replace(grid, level=finer.level, read_px=finer.read_px)
        steps = np.linspace(0, len(grid) - 1, min(count, len(grid)))
        chosen = grid.xy[np.unique(np.rint(steps).astype(np.intp))]
        shape = (2, len(chosen), grid.tile_px, grid.tile_px, 3)
        tiles = np.empty(shape, np.uint8)
        for place, xy in enumerate(chosen.tolist()):
            for one, rule in zip(tiles, (grid, other), strict=True):
                read_tile(slide, rule, tuple(xy), preprocess.reduction, one[place])
        return tiles[0], tiles[1]


def sample_tiles(path: Path, preprocess: Preprocess, count: int) -> TileSample:
    """Up to ``count`` tissue tiles of one slide, evenly spaced in reading order.

    Raises SlideError: the slide cannot be read, says no scale, or shows no tissue.
    """
    options = TissueOptions()
    with open_slide(path) as slide:
        mask, _ = find_tissue(slide, options)
        grid = plan_grid(slide.info, preprocess, mask, options)
        corners = grid.xy
        if len(corners) < count:
            # A small slide: tiles between the grid's own are tissue like any other.
            between = corners + np.int32(round(grid.span_px / 2))
            inside = (between + grid.span_px <= slide.info.size_px).all(axis=1)
            shares = tissue_shares(mask, slide_mpp(slide.info), between, grid.span_px)
            corners = np.concatenate(
                [corners, between[inside & (shares >= options.min_tile_share)]]
            )
        steps = np.linspace(0, len(corners) - 1, min(count, len(corners)))
        chosen = corners[np.unique(np.rint(steps).astype(np.intp))]
        tiles = np.empty((len(chosen), grid.tile_px, grid.tile_px, 3), np.uint8)
        for tile, xy in zip(tiles, chosen.tolist(), strict=True):
            read_tile(slide, grid, tuple(xy), preprocess.reduction, tile)
        return TileSample(slide.info.slide_id, tiles, chosen, grid.span_px)
