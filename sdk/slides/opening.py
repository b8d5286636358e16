"""From a file to an open slide, by the first reader that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pathgene_rt.errors import PathGeneError, SlideOpenError
from pathgene_rt.files import reason
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.options import Isolate, checked_isolate, checked_mpp
from pathgene_rt.slide_ids import slide_id_of
from pathgene_rt.slides.isolated_slide import open_isolated
from pathgene_rt.slides.openslide_reader import OpenSlideReader
from pathgene_rt.slides.registry import (
    BUILT_IN_READERS,
    HEAD_BYTES,
    LAST_READERS,
    SlideReader,
    any_plug_in,
    described,
    plug_ins,
)
from pathgene_rt.slides.scale import is_same_scale
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.slide_wrapper import SlideWrapper
from pathgene_rt.slides.tiff.reader import TiledSlide
from pathgene_rt.slides.unread import missing_companion, refusal


def open_slide(
    path: Path,
    mpp: float | None = None,
    *,
    mpp_override: float | None = None,
    isolate: Isolate = "auto",
) -> Slide:
    """Open ``path`` with the first reader that knows its format.

    ``mpp`` (um per level-0 pixel) is for files that do not say it, or nothing that makes sense;
    ``mpp_override`` takes the place of what any file says. ``info.warnings`` of the slide tell
    where either is at odds with the file. Pixels are not decoded yet: a damaged file may fail only
    when it is read.

    ``isolate``: whether the slide is read in a process of its own, which can crash without harm
    and can change no file. "auto": with readers of other packages, of CZI, and where OpenSlide
    reads a TIFF whose directories do not hold together. Its encoded tiles are then not given
    undecoded.

    Raises SlideOpenError; UsageError for an ``mpp`` that is no microscope's. Where nobody says a
    scale that is one, it is missed by whoever needs it (:func:`slide_mpp`).
    """
    checked_mpp("--mpp", mpp)
    checked_mpp("--mpp-override", mpp_override)
    checked_isolate(isolate)
    given = mpp if mpp_override is None else mpp_override
    slide = _opened(Path(path), given, isolate)
    try:
        info = replace(slide.info, slide_id=slide_id_of(Path(path)))
        info = _with_scale(info, mpp, mpp_override)
    except BaseException:
        slide.close()
        raise
    return slide if info == slide.info else SlideWrapper(slide, info)


def _with_scale(info: SlideInfo, mpp: float | None, override: float | None) -> SlideInfo:
    """``info`` with what the user says of the scale."""
    declared = info.mpp
    if declared is None:
        given = mpp if override is None else override
        return info if given is None else replace(info, mpp=given, scale_problem="")
    if override is not None and declared != override:
        told = f"the slide declares {declared:.4g} um/px; --mpp-override {override:g} was used"
        return replace(info, mpp=override, warnings=(*info.warnings, told))
    if mpp is not None and not is_same_scale(declared, mpp):
        told = (
            f"the slide declares {declared:.4g} um/px, which was used; --mpp {mpp:g} is for slides "
            "that do not say it (--mpp-override for others)"
        )
        return replace(info, warnings=(*info.warnings, told))
    return info


def _opened(path: Path, mpp: float | None, isolate: Isolate) -> Slide:
    head = _head(path)
    slide: Slide | None
    troubles: list[str] = []
    if isolate == "never":
        slide, troubles = open_here(path, mpp)
    elif isolate == "always" or _is_isolated(path, head):
        slide, troubles = _isolated(path, mpp, only_plug_ins=False)
    else:
        slide = _first_to_open(BUILT_IN_READERS, path, head, mpp)
        if isinstance(slide, OpenSlideReader | TiledSlide) and slide.is_odd:
            slide.close()
            slide, troubles = _isolated(path, mpp, only_plug_ins=False)
        if slide is None and any_plug_in():
            slide, troubles = _isolated(path, mpp, only_plug_ins=True)
        if slide is None:
            slide = _first_to_open(LAST_READERS, path, head, mpp)
    if slide is None:
        raise SlideOpenError("; ".join([refusal(path, head), *troubles]))
    return slide


def _is_isolated(path: Path, head: bytes) -> bool:
    """Whether one of our own readers of ``path`` is to run in a process of its own."""
    return any(one.isolated and one.matches(path, head) for one in BUILT_IN_READERS)


def _isolated(
    path: Path, mpp: float | None, *, only_plug_ins: bool
) -> tuple[Slide | None, list[str]]:
    opened = open_isolated(path, mpp, only_plug_ins=only_plug_ins)
    return (None, opened) if isinstance(opened, list) else (opened, [])


def open_here(
    path: Path, mpp: float | None, *, only_plug_ins: bool = False
) -> tuple[Slide | None, list[str]]:
    """The slide by the first reader that knows it, in this process, or None; and what there is to
    say of readers that failed. ``only_plug_ins``: of other packages alone. Raises SlideOpenError.
    """
    head = _head(path)
    slide = None if only_plug_ins else _first_to_open(BUILT_IN_READERS, path, head, mpp)
    if slide is not None:
        return slide, []
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
            return slide, []
    last = None if only_plug_ins else _first_to_open(LAST_READERS, path, head, mpp)
    return last, troubles


def _first_to_open(
    readers: Sequence[SlideReader], path: Path, head: bytes, mpp: float | None
) -> Slide | None:
    """The slide by the first of our own ``readers`` that knows it. Raises SlideOpenError."""
    try:
        for reader in readers:
            slide = reader.open(path, mpp) if reader.matches(path, head) else None
            if slide is not None:
                return slide
    except SlideOpenError as error:
        missing = missing_companion(path, head)
        if missing:
            raise SlideOpenError(f"{path}: {missing}") from error
        raise
    return None


def _head(path: Path) -> bytes:
    """The first bytes of the file. Raises SlideOpenError."""
    if path.is_dir():
        raise SlideOpenError(f"{path}: is a folder; name a slide file in it")
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise SlideOpenError(f"{path}: {reason(error)}; check the path") from error
