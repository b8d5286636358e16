"""The ranges of sizes that an engine is built for: TensorRT picks its kernels for each range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pathgene_rt.bundle.spec import ModelSpec, TensorSpec
from pathgene_rt.errors import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AxisRange:
    """Sizes that an axis may have; kernels are chosen for ``best``."""

    lowest: int
    best: int
    highest: int


Profile = dict[str, AxisRange]
"""One optimisation profile: the range of each dynamic axis by its name in the spec."""

BAGS = (
    AxisRange(1, 512, 1024),
    AxisRange(1024, 4096, 8192),
    AxisRange(8192, 16_384, 32_768),
    AxisRange(32_768, 65_536, 200_000),
)
"""Tiles of a bag. One range over all would have kernels for one size: a biopsy's or a resection's.
200,000 tiles are 33 cm2 of tissue at 0.5 um/px, more than a slide carries."""

MAX_BAG = BAGS[-1].highest

NEIGHBOURS = 8
"""Most edges that start at a tile (:func:`~pathgene_rt.geometry.grid_edges`)."""

REGIONS = 8192
"""Most regions of a bag (:func:`~pathgene_rt.geometry.grid_regions`), of which the largest slide
fills 1,850; a bag whose tiles lie farther apart has another engine."""

_TILES_IN_REGION = 128
"""Of its 256 places, how many hold a tile in the middle of the range: tissue has edges."""

POOLING_TILES, POOLING_GROUPS = 1024, 32
"""Most tiles and groups of a call of a pooling graph (``sdk/heads/incremental_pooling.py`` and
``interim.py``)."""


def encoder_profiles(max_batch: int) -> tuple[Profile, ...]:
    """Batches of 1 to ``max_batch``; all but a slide's last are full."""
    return ({"n": AxisRange(1, max_batch, max_batch)},)


def head_profiles() -> tuple[Profile, ...]:
    """Bags of 1 to MAX_BAG tiles in a few ranges, the smallest first."""
    return tuple(
        {
            "n": bag,
            "r": AxisRange(1, bag.best // _TILES_IN_REGION, min(bag.highest, REGIONS)),
            "e": AxisRange(0, NEIGHBOURS * bag.best, NEIGHBOURS * bag.highest),
        }
        for bag in BAGS
    )


def pooling_profiles() -> tuple[Profile, ...]:
    """Calls of :class:`~pathgene_rt.heads.incremental_pooling.PoolingEngine`."""
    return (
        {"n": AxisRange(1, 256, POOLING_TILES), "g": AxisRange(1, POOLING_GROUPS, POOLING_GROUPS)},
    )


def profiles_for(spec: ModelSpec, max_batch: int) -> tuple[Profile, ...]:
    """The profiles that suit what ``spec`` is: an encoder, a head or a pooling graph."""
    if spec.preprocess is not None:
        return encoder_profiles(max_batch)
    axes = {axis for tensor in spec.inputs for axis in tensor.shape}
    return pooling_profiles() if "g" in axes else head_profiles()


def shapes(tensor: TensorSpec, profile: Profile) -> tuple[Shape, Shape, Shape]:
    """(lowest, best, highest) shape of an input under ``profile``. Raises EngineError."""
    for axis in tensor.shape:
        if isinstance(axis, str) and axis not in profile:
            raise EngineError(
                f"tensorrt has no range for the axis {axis!r} of {tensor.name}; it knows "
                f"{', '.join(profile)}: use another --engine"
            )

    def at(end: Callable[[AxisRange], int]) -> Shape:
        return tuple(end(profile[axis]) if isinstance(axis, str) else axis for axis in tensor.shape)

    return at(lambda axis: axis.lowest), at(lambda axis: axis.best), at(lambda axis: axis.highest)


def in_words(spec: ModelSpec, profile: Profile) -> str:
    """What an engine's key says of a profile: "tiles 1x256x256x3..64x256x256x3..64x256x256x3"."""
    return ", ".join(
        f"{tensor.name} {'..'.join('x'.join(map(str, ends)) for ends in shapes(tensor, profile))}"
        for tensor in spec.inputs
    )
