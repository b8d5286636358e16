"""A slide seen through another object: what is not said otherwise is the slide's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pathgene_rt.errors import TileDecodeError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.slide import EncodedSource, Overview, Slide


class SlideWrapper:
    """A :class:`~pathgene_rt.slides.slide.Slide` with the pixels of ``slide``, which it closes, and
    with ``info`` in place of the slide's own, if given.
    """

    def __init__(self, slide: Slide, info: SlideInfo | None = None) -> None:
        self._slide = slide
        self._info = info or slide.info

    @property
    def info(self) -> SlideInfo:
        return self._info

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
        """See :meth:`Slide.read`."""
        return self._slide.read(xy_px, level, size_px, out, shrink=shrink, approximate=approximate)

    @property
    def reads_together(self) -> int:
        return self._slide.reads_together

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
        """See :meth:`Slide.read_many`."""
        return self._slide.read_many(
            corners_px, level, size_px, outs, shrink=shrink, approximate=approximate
        )

    def encoding_signature(self, level: int) -> str:
        """See :meth:`Slide.encoding_signature`."""
        return self._slide.encoding_signature(level)

    def encoded_source(self, level: int) -> EncodedSource | None:
        """See :meth:`Slide.encoded_source`."""
        return self._slide.encoded_source(level)

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`."""
        return read_overview(self, mpp)

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
