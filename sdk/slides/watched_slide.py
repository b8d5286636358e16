"""A slide whose opening and overview cannot hang: what TileReader does for tiles, for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.opening import open_slide
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.slide import EncodedSource, Overview, Slide


def open_watched(path: Path, mpp: float | None, io_timeout_s: float) -> WatchedSlide:
    """The slide at ``path``; raises as :func:`open_slide` does, and SlideReadError on a stall.

    Opening may take ``io_timeout_s`` in all. It is left behind on a thread of its own then, which
    closes the slide if it is ever opened.
    """
    watch = ReadWatch(io_timeout_s)

    def opened() -> Slide:
        with watch.reading():
            slide = open_slide(path, mpp)
        if watch.given_up:
            slide.close()
        return slide

    slide = run_watched(opened, watch, Path(path).stem, "it could not be opened")
    return WatchedSlide(slide, io_timeout_s)


class WatchedSlide:
    """A :class:`~pathgene_rt.slides.slide.Slide` read through another, which it closes."""

    def __init__(self, slide: Slide, io_timeout_s: float) -> None:
        self._slide = slide
        self._watch = ReadWatch(io_timeout_s)

    @property
    def info(self) -> SlideInfo:
        return self._slide.info

    @property
    def reader(self) -> str:
        return self._slide.reader

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,
    ) -> UInt8Array:
        """See :meth:`Slide.read`; this waits as long as that does."""
        with self._watch.reading():
            return self._slide.read(
                xy_px, level, size_px, out, shrink=shrink, approximate=approximate
            )

    def encoding_signature(self, level: int) -> str:
        """See :meth:`Slide.encoding_signature`."""
        return self._slide.encoding_signature(level)

    def encoded_source(self, level: int) -> EncodedSource | None:
        """See :meth:`Slide.encoded_source`."""
        return self._slide.encoded_source(level)

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`. Raises SlideReadError also when a read of it stalls."""
        part = WatchedSlide(self._slide, self._watch.timeout_s)
        return run_watched(
            lambda: read_overview(part, mpp), part._watch, self.info.slide_id, "nothing was read"
        )

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
