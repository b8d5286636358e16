"""Which tiles of a slide are encoded, from which pyramid level, and how one is read.

Scale rules (docs/design.md, "Tile"): the grid starts at level-0 (0, 0). Where a whole number of a
level's pixels makes one pixel of the bundle's scale, within its tolerance, nothing is resampled
between pixels; the bundle's level rule says which level is then read. Where there is none the slide
is resampled or refused, as the bundle says. Detail that was never scanned is not invented: a
coarser slide is always refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathgene_rt.bundle.spec import Preprocess, Reduction
from pathgene_rt.errors import NoTissueError, SlideScaleError, TileDecodeError
from pathgene_rt.geometry import Float32Array, Int32Array, SlideInfo, TileGrid, UInt8Array
from pathgene_rt.options import TissueOptions
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.slides.slide import Slide
from pathgene_rt.tiles.tissue import TissueMask

ROUNDING = 1e-6
"""Relative; three pixels of 0.1 um are one of 0.3 um even where the tolerance is 0."""


@dataclass(frozen=True)
class TileScale:
    """How tiles are read: ``read_px`` pixels of ``level``, ``span_px`` level-0 pixels, make one."""

    level: int
    read_px: int
    span_px: float


def plan_grid(
    info: SlideInfo, preprocess: Preprocess, mask: TissueMask, options: TissueOptions
) -> TileGrid:
    """The tiles of at least ``options.min_tile_share`` tissue, in reading order.

    Tiles at the right and bottom edge may reach past it; what lies outside counts as no tissue.
    Raises SlideScaleError; NoTissueError if no tile is kept.
    """
    scale = plan_scale(info, preprocess)
    columns, rows = (int(np.ceil(side / scale.span_px)) for side in info.size_px)
    corners = np.stack(
        np.meshgrid(np.arange(columns) * scale.span_px, np.arange(rows) * scale.span_px), axis=-1
    )
    xy = np.rint(corners.reshape(-1, 2)).astype(np.int32)
    tissue = tissue_shares(mask, slide_mpp(info), xy, scale.span_px)
    keep = tissue >= options.min_tile_share
    if not keep.any():
        raise NoTissueError(_nothing_to_tile(info, preprocess, mask, scale, options))
    return make_grid(info, preprocess, scale, xy[keep], tissue[keep])


def plan_scale(info: SlideInfo, preprocess: Preprocess) -> TileScale:
    """The level to read and how much of it, by the rules above. Raises SlideScaleError."""
    own_mpp = slide_mpp(info)
    target, tolerance = preprocess.mpp, max(preprocess.mpp_tolerance, ROUNDING)
    if own_mpp > target * (1 + tolerance):
        raise SlideScaleError(
            f"{info.slide_id}: scanned at {own_mpp:.4g} um/px, but the model needs {target:g} or "
            f"finer (tolerance {preprocess.mpp_tolerance:.0%}); scan at a higher magnification"
        )
    tile_px = preprocess.tile_px
    levels = _coarsest_first(info)
    for level, downsample in levels if preprocess.level_rule == "nearest" else reversed(levels):
        level_mpp = own_mpp * downsample
        factor = max(1, round(target / level_mpp))
        if abs(factor * level_mpp - target) <= tolerance * target:
            span_px = factor * tile_px * downsample
            return _without_rest(info, tile_px, span_px) or TileScale(
                level, factor * tile_px, span_px
            )
    return _resampled(info, preprocess, tile_px * target / own_mpp)


def scale_of_span(
    info: SlideInfo, preprocess: Preprocess, span_px: float, tolerance: float | None = None
) -> TileScale:
    """How to read tiles of a given ``span_px`` (level-0 pixels), e.g. of a coordinates file.

    Raises SlideScaleError if such tiles are not of the bundle's scale within the relative
    ``tolerance``, by default the bundle's.
    """
    tile_px, target = preprocess.tile_px, preprocess.mpp
    if tolerance is None:
        tolerance = preprocess.mpp_tolerance
    mpp = span_px * slide_mpp(info) / tile_px
    if abs(mpp - target) > max(tolerance, ROUNDING) * target:
        raise SlideScaleError(
            f"{info.slide_id}: tiles of {span_px:g} level-0 px are {mpp:.4g} um/px at {tile_px} px "
            f"a side, but the model needs {target:g} (tolerance {tolerance:.0%}); make the "
            f"coordinates for tiles of {tile_px * target:g} um, or leave out --coords"
        )
    if preprocess.level_rule == "finer":
        return _without_rest(info, tile_px, span_px) or _resampled(info, preprocess, span_px)
    for level, downsample in _coarsest_first(info):
        read_px = round(span_px / downsample)
        if read_px >= tile_px and read_px % tile_px == 0:
            return TileScale(level, read_px, span_px)
    return _resampled(info, preprocess, span_px)


def make_grid(
    info: SlideInfo,
    preprocess: Preprocess,
    scale: TileScale,
    xy: Int32Array,
    tissue: Float32Array,
) -> TileGrid:
    """The grid of the tiles at ``xy`` int32 [N, 2] with their shares of ``tissue`` float32 [N]."""
    return TileGrid(
        tile_px=preprocess.tile_px,
        mpp=scale.span_px * slide_mpp(info) / preprocess.tile_px,
        level=scale.level,
        read_px=scale.read_px,
        span_px=scale.span_px,
        xy=xy,
        tissue=tissue,
    )


def tissue_shares(mask: TissueMask, mpp: float, xy: Int32Array, span_px: float) -> Float32Array:
    """The share 0..1 of tissue in each square of ``span_px`` level-0 pixels, float32 [N].

    ``xy`` int32 [N, 2] are the squares' level-0 corners, ``mpp`` the scale of level 0. Exact for
    squares that cut through mask pixels: the integral image is interpolated at their corners.
    """
    area = np.zeros((mask.mask.shape[0] + 1, mask.mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(mask.mask, axis=0, dtype=np.int32, out=area[1:, 1:])
    np.cumsum(area, axis=1, out=area)
    to_mask = mpp / mask.mpp
    left, top = (xy * to_mask).T
    right, bottom = ((xy + span_px) * to_mask).T
    inside = (
        _interpolated(area, bottom, right)
        - _interpolated(area, top, right)
        - _interpolated(area, bottom, left)
        + _interpolated(area, top, left)
    )
    shares: NDArray[np.float64] = np.clip(inside / (span_px * to_mask) ** 2, 0.0, 1.0)
    return shares.astype(np.float32)


def read_tile(
    slide: Slide,
    grid: TileGrid,
    xy: tuple[int, int],
    reduction: Reduction,
    out: UInt8Array,
    *,
    approximate: bool = False,
) -> None:
    """Read the tile at level-0 corner ``xy`` into ``out`` uint8 [tile_px, tile_px, 3], as
    :func:`read_tiles` does. Raises TileDecodeError, SlideReadError.
    """
    (damage,) = read_tiles(slide, grid, [xy], reduction, [out], approximate=approximate)
    if damage is not None:
        raise damage


def read_tiles(
    slide: Slide,
    grid: TileGrid,
    corners_px: Sequence[tuple[int, int]],
    reduction: Reduction,
    outs: Sequence[UInt8Array],
    *,
    approximate: bool = False,
) -> list[TileDecodeError | None]:
    """Read the tile at each level-0 corner into the one of ``outs`` uint8 [tile_px, tile_px, 3];
    what is damaged of each, whose pixels are then anything, else None.

    Pixels are copied where the level has the grid's scale, else reduced: "box" by means over whole
    pixels (areas for other than whole factors), "bilinear" by PIL's antialiased triangle filter.
    ``approximate`` lets the slide decode at reduced size in place of the means
    (:meth:`Slide.read`). Thread-safe. Raises SlideReadError.
    """
    read = (grid.read_px, grid.read_px)
    if is_means(grid, reduction):
        shrink = grid.read_px // grid.tile_px
        return slide.read_many(
            corners_px, grid.level, read, outs, shrink=shrink, approximate=approximate
        )
    regions = [np.empty((*read, 3), np.uint8) for _ in outs]
    damages = slide.read_many(corners_px, grid.level, read, regions)
    for region, damage, out in zip(regions, damages, outs, strict=True):
        if damage is None:
            np.copyto(out, reduced_tile(region, grid.tile_px, reduction))
    return damages


def is_means(grid: TileGrid, reduction: Reduction) -> bool:
    """Whether tiles are the level's pixels, or means over whole squares of them."""
    whole = grid.read_px % grid.tile_px == 0
    return grid.read_px == grid.tile_px or (whole and reduction == "box")


def reduced_tile(rgb: UInt8Array, tile_px: int, reduction: Reduction) -> UInt8Array:
    """A new tile uint8 [tile_px, tile_px, 3] of ``rgb`` uint8 [n, n, 3], as :func:`read_tile`
    reduces what it reads.
    """
    if len(rgb) == tile_px:
        return np.array(rgb)
    image = Image.fromarray(rgb)
    if reduction == "box" and len(rgb) % tile_px == 0:
        return np.asarray(image.reduce(len(rgb) // tile_px))
    resample = Image.Resampling.BOX if reduction == "box" else Image.Resampling.BILINEAR
    return np.asarray(image.resize((tile_px, tile_px), resample))


def _without_rest(info: SlideInfo, tile_px: int, span_px: float) -> TileScale | None:
    """The coarsest level of which whole squares of pixels make up each pixel of a tile of
    ``span_px``; None if there is none."""
    for level, downsample in _coarsest_first(info):
        exact = span_px / downsample
        read_px = round(exact)
        whole = read_px >= tile_px and read_px % tile_px == 0
        if whole and abs(read_px - exact) <= ROUNDING * exact:
            return TileScale(level, read_px, span_px)
    return None


def _coarsest_first(info: SlideInfo) -> list[tuple[int, float]]:
    return sorted(enumerate(info.downsamples), key=lambda level: -level[1])


def _resampled(info: SlideInfo, preprocess: Preprocess, span_px: float) -> TileScale:
    """Tiles of about ``span_px`` from the nearest finer level, resampled between its pixels."""
    if preprocess.scale_policy == "refuse":
        levels = ", ".join(f"{slide_mpp(info) * downsample:.4g}" for downsample in info.downsamples)
        raise SlideScaleError(
            f"{info.slide_id}: no level ({levels} um/px) times a whole factor is within "
            f"{preprocess.mpp_tolerance:.0%} of the model's {preprocess.mpp:g} um/px, and its "
            "bundle refuses to resample; export the bundle with scale_policy 'resample'"
        )
    wanted = span_px / preprocess.tile_px
    level, downsample = next(
        (entry for entry in _coarsest_first(info) if entry[1] <= wanted), (0, info.downsamples[0])
    )
    read_px = max(1, round(span_px / downsample))
    return TileScale(level, read_px, read_px * downsample)


def _interpolated(
    area: Int32Array, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``area`` at fractional places, bilinear; places outside count as on the border."""
    last_row, last_column = area.shape[0] - 1, area.shape[1] - 1
    rows, columns = np.clip(rows, 0, last_row), np.clip(columns, 0, last_column)
    row = np.minimum(rows.astype(np.intp), last_row - 1)
    column = np.minimum(columns.astype(np.intp), last_column - 1)
    down, right = rows - row, columns - column
    upper = area[row, column] * (1 - right) + area[row, column + 1] * right
    lower = area[row + 1, column] * (1 - right) + area[row + 1, column + 1] * right
    result: NDArray[np.float64] = upper * (1 - down) + lower * down
    return result


def _nothing_to_tile(
    info: SlideInfo,
    preprocess: Preprocess,
    mask: TissueMask,
    scale: TileScale,
    options: TissueOptions,
) -> str:
    width, height = info.size_px
    if min(width, height) < scale.span_px:
        return (
            f"{info.slide_id}: the slide is {width} x {height} px, smaller than one tile "
            f"({scale.span_px:.0f} px, {preprocess.tile_px * preprocess.mpp:g} um), and has too "
            "little tissue for one; give the whole slide"
        )
    return (
        f"{info.slide_id}: no tile is at least {options.min_tile_share:.0%} tissue "
        f"({mask.quality['tissue_area_mm2']:g} mm2 of tissue found); check that this is an H&E "
        "slide, or name its tiles with --coords"
    )
