"""Connected components and holes of a binary mask, with numpy alone.

Rows are taken apart into runs; runs that touch between neighbouring rows are edges of a graph. Its
components are found by hooking every root to its smallest neighbour and shortening paths, as in
Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm" (1982): a few passes over arrays
instead of a loop over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.geometry import BoolArray, Int64Array

IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Components:
    """The connected components of a mask. ``lengths`` int64 [R] are its runs in reading order,
    ``labels`` [R] the component of each, ``areas_px`` int64 [C] the pixels of each component.
    """

    lengths: Int64Array
    labels: IntArray
    areas_px: Int64Array


def remove_small(mask: BoolArray, min_px: float) -> tuple[BoolArray, int]:
    """``mask`` [h, w] without components (8-connected) of fewer than ``min_px`` pixels, and how
    many are left.
    """
    components = connected_components(mask, diagonal=True)
    return _select(mask, components, components.areas_px >= min_px)


def fill_holes(mask: BoolArray, max_px: float) -> BoolArray:
    """``mask`` [h, w] with the holes (4-connected, not open to the border) of up to ``max_px``."""
    outside = np.pad(~mask, 1, constant_values=True)
    components = connected_components(outside, diagonal=False)
    fill = components.areas_px <= max_px
    fill[components.labels[0]] = False  # the first run is the border that was added around
    holes, _ = _select(outside, components, fill)
    return mask | holes[1:-1, 1:-1]


def connected_components(mask: BoolArray, diagonal: bool) -> Components:
    """The connected components of ``mask`` [h, w], across corners too if ``diagonal``."""
    height, width = mask.shape
    stride = width + 2
    padded = np.zeros((height, stride), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    reach = int(diagonal)
    first = np.searchsorted(ends, starts + stride - reach, side="right")
    last = np.searchsorted(starts, ends + stride + reach, side="left")
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    offset_in_run = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts)
    below = np.repeat(first, counts) + offset_in_run
    roots, labels = np.unique(_roots(len(starts), above, below), return_inverse=True)
    lengths = (ends - starts).astype(np.int64)
    areas = np.bincount(labels, weights=lengths, minlength=len(roots)).astype(np.int64)
    return Components(lengths, labels, areas)


def _roots(count: int, a: IntArray, b: IntArray) -> IntArray:
    """The smallest member of the component of each of ``count`` nodes under the edges (a, b)."""
    parent = np.arange(count)
    while len(a):
        low, high = np.minimum(parent[a], parent[b]), np.maximum(parent[a], parent[b])
        apart = low != high
        a, b, low, high = a[apart], b[apart], low[apart], high[apart]
        np.minimum.at(parent, high, low)
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
    return parent


def _select(mask: BoolArray, components: Components, keep: BoolArray) -> tuple[BoolArray, int]:
    """The pixels of the components to ``keep`` [C]. Runs come in reading order, as pixels do."""
    selected = np.zeros_like(mask)
    selected[mask] = np.repeat(keep[components.labels], components.lengths)
    return selected, int(np.count_nonzero(keep))
