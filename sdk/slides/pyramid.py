"""Which pictures of a file are one slide at several scales: those of one shape.

Labels and pictures of the whole glass slide ("macro") lie in the same file, sometimes stored as
levels are. None of them is the slide, and tissue that is found on one is nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

SAME_SHAPE = 0.02
"""Relative, beside what rounding to whole pixels does."""


def is_level_of(size_px: tuple[int, int], slide_px: tuple[int, int]) -> bool:
    """Whether a picture of ``size_px`` (w, h) has the shape of the slide's ``slide_px``, and is no
    larger.
    """
    if min(size_px) <= 0:
        return False
    across, down = (slide / size for slide, size in zip(slide_px, size_px, strict=True))
    rounding = sum(1 / side for side in size_px)
    if min(across, down) < 1 - rounding:
        return False
    return abs(across - down) <= (SAME_SHAPE + rounding) * max(across, down)


def levels_of_slide(sizes_px: Sequence[tuple[int, int]]) -> list[int]:
    """The numbers of those pictures that are levels of the first, itself among them."""
    return [number for number, size in enumerate(sizes_px) if is_level_of(size, sizes_px[0])]


def is_larger(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether ``one`` (w, h) has more pixels than a level of ``other`` ever has."""
    return one[0] * one[1] > other[0] * other[1] and not is_level_of(one, other)
