"""The tiles of all slides of a case as one bag."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pathgene_rt.errors import BagError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Int64Array

REGION_ROWS = 64
"""Slides begin at a multiple of this, and at least as many empty rows lie between them. A head that
forms square regions of 2, 4, 8, ... 64 tiles thus finds those that each slide has alone, and
neither a region nor an edge joins tiles of two slides."""


def pool_bags(case_id: str, bags: Iterable[FeatureBag]) -> FeatureBag:
    """All tiles of ``bags``, in their order, in one bag called ``case_id``.

    The slides' grids lie one below another (:func:`stack_coords`): ``xy`` are (column, row), with
    ``span_px`` 1, and belong to no slide's pixels. Memory: the pooled bag and one slide's, as
    bags are released one by one, if nobody else holds them. Raises BagError if ``bags`` is empty
    or they do not come from one encoder.
    """
    waiting = list(bags)
    if not waiting:
        raise BagError(f"case {case_id} has no slide; give at least one")
    first = waiting[0]
    for bag in waiting:
        if bag.features.shape[1] != first.features.shape[1] or (
            bag.encoder_sha256 != first.encoder_sha256
        ):
            raise BagError(
                f"case {case_id}: the features of {bag.slide_id} and {first.slide_id} are of "
                "different encoders; extract both with one bundle"
            )
    xy = stack_coords([bag.coords for bag in waiting]).astype(np.int32)
    width, encoder = first.features.shape[1], first.encoder_sha256
    tile_px, mpp = first.tile_px, first.mpp
    del first, bag
    # Rows occupy memory when they are written, while those of the slides are given back.
    features = np.empty((len(xy), width), dtype=np.float32)
    row = 0
    while waiting:
        part = waiting.pop(0).features
        features[row : row + len(part)] = part
        row += len(part)
    return FeatureBag(case_id, features, xy, tile_px, mpp, span_px=1.0, encoder_sha256=encoder)


def stack_coords(grids: Iterable[Int64Array]) -> Int64Array:
    """(column, row) int64 [sum of N, 2] of ``grids`` [N, 2], one below another.

    Columns stay as they are; each grid moves by a multiple of REGION_ROWS rows, the first to where
    it begins in the first REGION_ROWS.
    """
    stacked, begin = [], 0
    for grid in grids:
        down = begin - grid[:, 1].min() // REGION_ROWS * REGION_ROWS
        stacked.append(grid + np.array([0, down]))
        below = int(stacked[-1][:, 1].max()) + 1
        begin = -(-below // REGION_ROWS) * REGION_ROWS + REGION_ROWS
    return np.concatenate(stacked)
