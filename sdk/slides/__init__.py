"""Slides as files hold them: found, opened by the reader that knows the format, read.

``slide`` is the contract that every reader gives, ``registry`` lists the readers, ``opening`` asks
them, ``find`` searches folders; ``scale`` says what counts as a slide's scale, ``limits`` how large
one may be. ``tiff/`` decodes encoded tiles itself, ``openslide_reader`` does all else;
``pixel_slide`` and ``native_slide`` are for readers of others. ``read_watch`` and
``watched_slide`` give up on disks that stall. Imports the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.slides.find import find_slides
    from pathgene_rt.slides.opening import open_slide
    from pathgene_rt.slides.pixel_slide import PixelSlide
    from pathgene_rt.slides.registry import SlideReader, add_reader_library, native_reader
    from pathgene_rt.slides.slide import Overview, Slide

__all__ = [
    "Overview",
    "PixelSlide",
    "Slide",
    "SlideReader",
    "add_reader_library",
    "find_slides",
    "native_reader",
    "open_slide",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Overview": "slide",
        "PixelSlide": "pixel_slide",
        "Slide": "slide",
        "SlideReader": "registry",
        "add_reader_library": "registry",
        "native_reader": "registry",
        "find_slides": "find",
        "open_slide": "opening",
    },
)
