"""A slide whose opening and overview cannot hang: what TileReader does for tiles, for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathgene_rt.errors import TileDecodeError
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.options import Isolate
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.opening import open_slide
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.read_watch import ReadWatch, run_watched
from pathgene_rt.slides.slide import Overview, Slide
from pathgene_rt.slides.slide_wrapper import SlideWrapper


def open_watched(
    path: Path,
    mpp: float | None,
    io_timeout_s: float,
    *,
    mpp_override: float | None = None,
    isolate: Isolate = "auto",
) -> WatchedSlide:
    """The slide at ``path``; raises as :func:`open_slide` does, and SlideReadError on a stall.

    Opening may take ``io_timeout_s`` in all. It is left behind on a thread of its own then, which
    closes the slide if it is ever opened.
    """
    watch = ReadWatch(io_timeout_s)

    def opened() -> Slide:
        with watch.reading():
            slide = open_slide(path, mpp, mpp_override=mpp_override, isolate=isolate)
        if watch.given_up:
            slide.close()
        return slide

    slide = run_watched(opened, watch, slide_id_of(Path(path)), "it could not be opened")
    return WatchedSlide(slide, io_timeout_s)


class WatchedSlide(SlideWrapper):
    """A slide whose overview gives up on a stalled disk."""

    def __init__(self, slide: Slide, io_timeout_s: float) -> None:
        super().__init__(slide)
        self._watch = ReadWatch(io_timeout_s)

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
            return super().read(xy_px, level, size_px, out, shrink=shrink, approximate=approximate)

    def read_many(
        self,
        corners_px: Sequence[tuple[int, int]],
        level: int,
        size_px: tuple[int, int],
        outs: Sequence[UInt8Array],
        *,
        shrink: int = 1,
        approximate: bool = False,
    ) -> list[TileDecodeError | None]:
        """See :meth:`Slide.read_many`; this waits as long as that does."""
        with self._watch.reading():
            return super().read_many(
                corners_px, level, size_px, outs, shrink=shrink, approximate=approximate
            )

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`. Raises SlideReadError also when a read of it stalls."""
        part = WatchedSlide(self._slide, self._watch.timeout_s)
        return run_watched(
            lambda: read_overview(part, mpp), part._watch, self.info.slide_id, "nothing was read"
        )
