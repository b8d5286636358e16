"""Slides of which several regions are read one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pathgene_rt.errors import TileDecodeError
from pathgene_rt.geometry import UInt8Array


class OneByOne(ABC):
    """What a :class:`~pathgene_rt.slides.slide.Slide` derives from to which a read of several
    regions is no cheaper than a read of each."""

    reads_together: int = 1
    """See :attr:`Slide.reads_together`."""

    @abstractmethod
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
        damages: list[TileDecodeError | None] = []
        for xy_px, out in zip(corners_px, outs, strict=True):
            try:
                self.read(xy_px, level, size_px, out, shrink=shrink, approximate=approximate)
                damages.append(None)
            except TileDecodeError as error:
                damages.append(error)
        return damages
