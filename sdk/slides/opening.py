"""From a file to an open slide, by the first reader that knows it."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.errors import PathGeneError, SlideOpenError, SlideScaleError
from pathgene_rt.files import reason
from pathgene_rt.slides.registry import (
    BUILT_IN_READERS,
    HEAD_BYTES,
    described,
    plug_ins,
)
from pathgene_rt.slides.scale import SENSIBLE_MPP
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.reader import is_tiff


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Open ``path`` with the first reader that knows its format.

    ``mpp`` (um per level-0 pixel) replaces whatever the file declares. Pixels are not decoded yet:
    a damaged file may fail only when it is read. Raises SlideOpenError; SlideScaleError for a scale
    that differs between x and y, and for a senseless ``mpp``.
    """
    path = Path(path)
    low, high = SENSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:
        raise SlideScaleError(
            f"{path}: --mpp {mpp} is out of range; give {low:g} to {high:g} micrometres per pixel"
        )
    head = _head(path)
    for reader in BUILT_IN_READERS:
        slide = reader.open(path, mpp) if reader.matches(path, head) else None
        if slide is not None:
            return slide
    troubles = list(plug_ins().troubles)
    for reader in plug_ins().readers:
        try:
            slide = reader.open(path, mpp) if reader.matches(path, head) else None
        except PathGeneError:
            raise
        except Exception as error:  # noqa: BLE001 - others' code raises what it likes
            troubles.append(
                f"the slide reader {reader.name!r}, which another package brought, failed "
                f"({described(error)})"
            )
            continue
        if slide is not None:
            return slide
    raise SlideOpenError("; ".join([_unknown(path, head), *troubles]))


def _head(path: Path) -> bytes:
    """The first bytes of the file. Raises SlideOpenError."""
    if path.is_dir():
        raise SlideOpenError(f"{path}: is a folder; name a slide file in it")
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise SlideOpenError(f"{path}: {reason(error)}; check the path") from error


def _unknown(path: Path, head: bytes) -> str:
    if is_tiff(head):
        return (
            f"{path}: a TIFF file, but of no known scanner or cut short (it has "
            f"{path.stat().st_size} bytes); copy it again or convert it"
        )
    return f"{path}: not a slide of any known format; check the file or convert it"
