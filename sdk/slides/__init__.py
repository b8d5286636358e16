"""Opening slides. A new file format is one more reader in ``READERS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pathgene_rt.errors import SlideOpenError, SlideScaleError
from pathgene_rt.files import reason
from pathgene_rt.slides.openslide_reader import open_with_openslide
from pathgene_rt.slides.scale import SENSIBLE_MPP
from pathgene_rt.slides.slide import Overview, Slide
from pathgene_rt.slides.tiff.reader import TIFF_STARTS, open_tiff

__all__ = ["READERS", "Overview", "Slide", "open_slide"]

OpenWith = Callable[[Path, float | None], Slide | None]

READERS: tuple[OpenWith, ...] = (open_tiff, open_with_openslide)
"""In the order in which they are asked. A reader returns None for a file that is not its own, and
raises SlideOpenError for one that is but cannot be opened."""


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Open ``path`` with the first reader that knows its format.

    ``mpp`` (um per level-0 pixel) replaces whatever the file declares. Pixels are not decoded yet:
    a damaged file may fail only when it is read. Raises SlideOpenError; SlideScaleError for a scale
    that differs between x and y, and for a senseless ``mpp``.
    """
    path = Path(path)
    low, high = SENSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:
        raise SlideScaleError(
            f"{path}: --mpp {mpp} is out of range; give {low:g} to {high:g} micrometres per pixel"
        )
    if path.is_dir():
        raise SlideOpenError(f"{path}: is a folder; name a slide file in it")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SlideOpenError(f"{path}: {reason(error)}; check the path") from error
    for open_with in READERS:
        slide = open_with(path, mpp)
        if slide is not None:
            return slide
    if start in TIFF_STARTS:
        raise SlideOpenError(
            f"{path}: a TIFF file, but of no known scanner or cut short (it has "
            f"{path.stat().st_size} bytes); copy it again or convert it"
        )
    raise SlideOpenError(f"{path}: not a slide of any known format; check the file or convert it")
