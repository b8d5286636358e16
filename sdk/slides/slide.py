"""The contract of a slide: whatever reads a file format hands the pipeline one of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from pathgene_rt.errors import TileDecodeError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.encoded_region import EncodedLevel, EncodedRegion


@dataclass(frozen=True)
class Overview:
    """A whole slide in one small picture: ``rgb`` uint8 [h, w, 3].

    Pixel (i, j) is the mean of the level-0 square that starts at ``(j, i) * downsample``; the last
    row and column may reach past the slide's edge.
    """

    rgb: UInt8Array
    downsample: float


class EncodedSource(Protocol):
    """The tiles of one pyramid level as the file stores them. Thread-safe."""

    @property
    def level(self) -> EncodedLevel: ...

    def region(self, xy_px: tuple[int, int], side_px: int) -> EncodedRegion:
        """What :meth:`Slide.read` would decode for the square of ``side_px`` pixels of the level
        whose level-0 top-left is ``xy_px``. Raises as that does.
        """


class Slide(Protocol):
    """An open slide. Every method may be called from any thread at any time.

    Coordinates are level-0 pixels of the file's own canvas (for MRXS the whole scanned area, of
    which parts are empty). Whatever holds no pixels (outside the slide, areas that were not
    scanned) is the slide's declared background colour, else white.
    """

    @property
    def info(self) -> SlideInfo: ...

    @property
    def reader(self) -> str:
        """Which reader opened it, with its version, for the report: e.g. "openslide 4.0.1"."""

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
        """RGB uint8 [h / shrink, w / shrink, 3] of the region whose level-0 top-left is ``xy_px``.

        ``size_px`` (w, h) counts pixels of ``level`` and is a multiple of ``shrink``. Each pixel
        of the result is the rounded mean over ``shrink`` x ``shrink`` of the level's; with
        ``approximate`` a reader may decode at reduced size instead (JPEG's lowest DCT
        coefficients), which is faster. The pixels are written to ``out`` and ``out`` is returned,
        where it is given; the caller owns the result.

        Raises TileDecodeError if this region's stored pixels are damaged: other regions can still
        be read. Any other SlideReadError means that the slide cannot be read any more.
        """

    @property
    def reads_together(self) -> int:
        """For how many regions :meth:`read_many` is best called at a time: 1 where that is no
        cheaper than to read each."""

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
        """:meth:`read` at each of ``corners_px``, into the one of ``outs``; what is damaged of
        each, whose pixels are then anything, else None. Raises as :meth:`read` does otherwise.
        """

    def encoding_signature(self, level: int) -> str:
        """How the tiles of ``level`` are stored, as far as reduced-size decoding depends on it: for
        JPEG the quantisation tables, subsampling and photometric in one short string that is alike
        for slides of one scanner. Empty where :meth:`read` takes no notice of ``approximate``.
        """

    def encoded_source(self, level: int) -> EncodedSource | None:
        """The tiles of ``level`` undecoded, where this reader knows how they are stored."""

    def overview(self, mpp: float) -> Overview:
        """The whole slide at about ``mpp`` micrometres per pixel, in bounded memory.

        Raises SlideReadError; SlideScaleError where the slide's own scale is unknown.
        """

    def close(self) -> None:
        """Refuse further reads and free everything once those in progress end. Idempotent.

        Does not wait.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
