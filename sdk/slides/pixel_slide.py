"""What every slide has of which nothing but pixels is known: a reader adds how they are read."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from pathgene_rt.geometry import SlideInfo
from pathgene_rt.slides.one_by_one import OneByOne
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.slide import EncodedSource, Overview


class PixelSlide(OneByOne):
    """A :class:`~pathgene_rt.slides.slide.Slide` to be derived from.

    A subclass sets ``info`` and ``reader`` and says how a region is read and how to close.
    """

    info: SlideInfo
    reader: str

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
