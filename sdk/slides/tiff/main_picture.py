"""Which of a TIFF's pictures is the slide, where OpenSlide takes the first one for it."""

from __future__ import annotations

from collections.abc import Sequence

from pathgene_rt.slides.pyramid import is_larger, is_level_of
from pathgene_rt.slides.tiff.layout import TiffDirectory

MORE_SLIDES_SHARE = 0.25
"""Of the slide's pixels; labels and macro pictures have far fewer."""


def behind_another(directories: Sequence[TiffDirectory]) -> TiffDirectory | None:
    """The slide, if it comes after a smaller picture of something else: the first largest
    directory.
    """
    if not directories:
        return None
    largest = max(directories, key=lambda one: one.size_px[0] * one.size_px[1])
    return largest if is_larger(largest.size_px, directories[0].size_px) else None


def pyramid_of(main: TiffDirectory, directories: Sequence[TiffDirectory]) -> list[TiffDirectory]:
    """``main`` and its smaller levels, which follow it in the file."""
    levels = [
        one
        for one in directories
        if one.number > main.number
        and not one.associated
        and one.size_px[0] < main.size_px[0]
        and is_level_of(one.size_px, main.size_px)
    ]
    return [main, *sorted(levels, key=lambda one: -one.size_px[0])]


def more_slides(main: TiffDirectory, directories: Sequence[TiffDirectory]) -> tuple[str, ...]:
    """For a report: that the file holds pictures as large as the slide that are none of its
    levels, such as a second scanned piece.
    """
    least = MORE_SLIDES_SHARE * main.size_px[0] * main.size_px[1]
    others = [
        one
        for one in directories
        if one is not main
        and not one.associated
        and one.size_px[0] * one.size_px[1] >= least
        and (one.size_px == main.size_px or not is_level_of(one.size_px, main.size_px))
    ]
    if not others:
        return ()
    width, height = others[0].size_px
    return (
        f"the file holds {len(others)} more pictures of a slide's size (directory "
        f"{others[0].number}: {width} x {height} px), which were not read",
    )
