"""What every slide has of which nothing but pixels is known: a reader adds how they are read."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
from PIL import Image

from pathgene_rt.errors import TileDecodeError, said_by
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slides.one_by_one import OneByOne
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.slide import EncodedSource, Overview


class PixelSlide(OneByOne):
    """A :class:`~pathgene_rt.slides.slide.Slide` to be derived from.

    A subclass sets ``info`` and ``reader`` and says how a region is read and how to close.
    """

    info: SlideInfo
    reader: str

    def undecodable(self, xy_px: tuple[int, int], level: int, error: Exception) -> TileDecodeError:
        """What to raise where a library gave ``error`` in place of pixels."""
        return TileDecodeError(
            f"{self.info.slide_id}: the pixels at {xy_px} of level {level} cannot be decoded "
            f"({said_by(error)}); the file is damaged: copy or scan it again"
        )

    @abstractmethod
    def close(self) -> None:
        """See :meth:`Slide.close`."""

    def encoding_signature(self, level: int) -> str:  # noqa: ARG002 - alike for all levels
        """See :meth:`Slide.encoding_signature`: regions are always decoded in full."""
        return ""

    def encoded_source(self, level: int) -> EncodedSource | None:  # noqa: ARG002 - none has one
        """See :meth:`Slide.encoded_source`: there are pixels only."""
        return None

    def overview(self, mpp: float) -> Overview:
        """See :meth:`Slide.overview`."""
        return read_overview(self, mpp)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def given_back(pixels: UInt8Array, shrink: int, out: UInt8Array | None) -> UInt8Array:
    """What :meth:`Slide.read` returns of ``pixels`` uint8 [h, w, 3]: reduced, in ``out`` if there
    is one."""
    if shrink > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(shrink))
    if out is None:
        return pixels
    np.copyto(out, pixels)
    return out
