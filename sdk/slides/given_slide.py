"""A slide that lies in no file of this machine: whoever predicts it says how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.slide import Slide


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenSlide:
    """``name`` is its id and what errors call it; ``fingerprint`` tells whether an earlier result
    is of the same pixels. ``open`` may be called again; ``expect`` is told, before tiles are read,
    which rows int64 [n] of the grid will be, in that order. ``datasets`` are its pictures' DICOM
    attributes, where it is DICOM.
    """

    name: str
    fingerprint: SlideFingerprint
    open: Callable[[], Slide]
    expect: Callable[[TileGrid, Int64Array], None]
    datasets: Sequence[Any] = ()
