"""How large a slide may claim to be. Checked before anything of that size is allocated."""

from __future__ import annotations

from pathgene_rt.errors import SlideOpenError

MAX_SIDE_PX = 1 << 21
"""Of level 0: half a metre at 0.25 um/px."""


def is_slide_size(size_px: tuple[int, int]) -> bool:
    """Whether ``size_px`` (w, h) is positive and no side is longer than ``MAX_SIDE_PX``."""
    return all(0 < side <= MAX_SIDE_PX for side in size_px)


def checked_size(name: object, size_px: tuple[int, int]) -> tuple[int, int]:
    """``size_px`` (w, h) of the slide or level that ``name`` stands for. Raises SlideOpenError."""
    if not is_slide_size(size_px):
        raise SlideOpenError(
            f"{name}: claims to be {size_px[0]} x {size_px[1]} px; slides up to {MAX_SIDE_PX} px "
            "a side are read: the file is damaged or no slide"
        )
    return size_px
