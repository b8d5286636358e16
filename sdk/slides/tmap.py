"""UNIC slides (TMAP), through tmapslide.

Their maker publishes no description; that package reads them by a layout that was found from files.
No real file could be had here, and every slide's report says so. It runs in a process of its own
(``registry``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import SlideOpenError, SlideReadError
from pathgene_rt.geometry import SlideInfo, UInt8Array
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.limits import checked_size
from pathgene_rt.slides.pixel_slide import PixelSlide, given_back
from pathgene_rt.slides.pyramid import levels_of_slide
from pathgene_rt.slides.scale import Scale, settled_scale
from pathgene_rt.slides.shared_handle import HandleClosedError, SharedHandle
from pathgene_rt.slides.tmap_index import require_whole

START = b"TMAP"

UNTRIED = (
    "read by tmapslide, which was not tried here on a file of a scanner: compare the slide's "
    "pictures with the maker's viewer"
)

_UM_A_MM = 1000.0
_FILES = 8
"""The byte of the header of the version 06 that says how many files the slide has."""


IS_INSTALLED = importlib.util.find_spec("tmapslide") is not None


def open_tmap(path: Path, mpp: float | None) -> TmapSlide:
    """The slide in the TMAP file ``path``. Raises SlideOpenError."""
    import tmapslide

    try:
        require_whole(path)
        handle = tmapslide.OpenSlide(str(path))
    except Exception as error:
        raise _refused(path, str(error)) from error
    try:
        return TmapSlide(handle, path, mpp)
    except SlideOpenError:
        handle.close()
        raise
    except Exception as error:
        handle.close()
        raise _refused(path, f"{type(error).__name__}: {error}") from error


class TmapSlide(PixelSlide):
    """A :class:`~pathgene_rt.slides.slide.Slide`. Memory: 256 decoded tiles, and thrice the region
    of each read in progress."""

    def __init__(self, handle: Any, path: Path, mpp: float | None) -> None:
        """``handle`` is a ``tmapslide.OpenSlide``, closed by :meth:`close`."""
        self._handle: SharedHandle[Any] = SharedHandle(handle, handle.close)
        properties = handle.properties
        sizes = _stored_levels(handle)
        size_px = checked_size(path, sizes[0])
        _check_companions(path, handle._info)
        self._numbers = levels_of_slide(sizes)
        scale = _scale(properties, mpp)
        self.info = SlideInfo(
            slide_id=slide_id_of(path),
            size_px=size_px,
            mpp=scale.mpp,
            downsamples=tuple(float(handle.level_downsamples[one]) for one in self._numbers),
            vendor="unic",
            warnings=(*scale.warnings, UNTRIED),
            scale_problem=scale.problem,
        )
        self.reader = f"tmapslide {importlib.metadata.version('tmapslide')}"

    def read(
        self,
        xy_px: tuple[int, int],
        level: int,
        size_px: tuple[int, int],
        out: UInt8Array | None = None,
        *,
        shrink: int = 1,
        approximate: bool = False,  # noqa: ARG002 - all is always decoded
    ) -> UInt8Array:
        """See :meth:`Slide.read`."""
        try:
            with self._handle as handle:
                image = handle.read_region(xy_px, self._numbers[level], size_px).convert("RGB")
        except HandleClosedError as error:
            raise SlideReadError(
                f"{self.info.slide_id}: the slide was closed; open it again"
            ) from error
        except Exception as error:
            raise self.undecodable(xy_px, level, error) from error
        return given_back(np.array(image), shrink, out)

    def close(self) -> None:
        """See :meth:`Slide.close`."""
        self._handle.close()


def _check_companions(path: Path, parsed: Any) -> None:
    """Of the version 06, files beside ``path`` may hold tiles, which would be blank without them.
    Raises SlideOpenError."""
    if parsed.version != 6:
        return
    with path.open("rb") as file:
        files = file.read(_FILES + 1)[_FILES]
    for number in range(1, files):
        if number not in parsed.data_files:
            raise SlideOpenError(
                f"{path}: a UNIC slide (TMAP) without {path.stem}.DT{number}, which holds some of "
                "its tiles; copy it beside this file"
            )


def _stored_levels(handle: Any) -> list[tuple[int, int]]:
    """The sizes of the levels that hold tiles: of others it gives a finer level's pixels."""
    levels = handle._info.levels
    stored = next((number for number, one in enumerate(levels) if not len(one.tiles)), len(levels))
    if not stored:
        raise ValueError("its finest level holds no tile")
    return [(int(one.width), int(one.height)) for one in levels[:stored]]


def _scale(properties: Any, given: float | None) -> Scale:
    """That of the header, if its magnification agrees: from that alone none is made."""
    stated = f"{float(properties['tmap.pixel_size_mm']) * _UM_A_MM:.6g}"
    if properties["tmap.mpp_source"] == "header":
        return settled_scale(stated, stated, given)
    problem = (
        f"declares {stated} um/px, which does not go with its magnification of "
        f"{properties['tmap.objective_power']}"
    )
    if given is None:
        return Scale(None, problem=problem)
    return Scale(given, (f"the slide {problem}; the scale that was given, {given:g}, was used",))


def _refused(path: Path, said: str) -> SlideOpenError:
    return SlideOpenError(
        f"{path}: a UNIC slide (TMAP) that tmapslide does not open ({' '.join(said.split())}); "
        "copy it again, or export it as SVS or TIFF with the scanner's viewer"
    )
