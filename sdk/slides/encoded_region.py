"""Squares of a slide as the compressed tiles that hold them, for engines that decode themselves.

What a slide stores and what the encoder takes seldom coincide: a tile of the grid is cut from
several encoded tiles, and reduced. Here it travels as their bytes and where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pathgene_rt.geometry import Int32Array

Codec = Literal["jpeg", "jpeg2000"]


@dataclass(frozen=True, eq=False)
class EncodedLevel:
    """How the tiles of one pyramid level are stored, as far as it concerns a decoder of them.

    ``size_px`` of the level and ``tile_px`` of its encoded tiles are (w, h). Encoded tiles are
    numbered row by row, ``across`` in each; what lies outside of the level, and tiles that are
    missing, is ``background``. ``chroma`` int32 [4, 256] turns decoded Y, Cb and Cr to RGB where
    the streams hold those undeclared (:data:`~pathgene_rt.slides.tiff.jpeg2000.CHROMA`), else
    None: decoders then give RGB.
    """

    codec: Codec
    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    background: tuple[int, int, int]
    chroma: Int32Array | None = None

    @property
    def across(self) -> int:
        return -(-self.size_px[0] // self.tile_px[0])


@dataclass(frozen=True, eq=False)
class EncodedRegion:
    """The square of ``side_px`` pixels of ``level`` that begins at pixel ``corner_px`` (x, y).

    It may reach past the level on any side. ``streams`` are the encoded tiles that it touches, by
    number, each a complete stream that declares its own colours; those that are missing are left
    out.
    """

    level: EncodedLevel
    corner_px: tuple[int, int]
    side_px: int
    streams: Mapping[int, bytes]


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Tiles of ``tile_px`` for the encoder, as ``regions`` of one level and one side.

    The side is ``factor`` times ``tile_px``; each pixel of a tile is the mean of ``factor`` x
    ``factor``, rounded as by :func:`~pathgene_rt.tiles.grid.reduced_tile` with "box".
    """

    regions: Sequence[EncodedRegion]
    tile_px: int

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def level(self) -> EncodedLevel:
        return self.regions[0].level

    @property
    def factor(self) -> int:
        return self.regions[0].side_px // self.tile_px

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels, uint8."""
        return len(self), self.tile_px, self.tile_px, 3
