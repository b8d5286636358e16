"""From what a user names (files, patterns, folders) to slides, each once."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.slides.registry import known_suffixes


def find_slides(names: Iterable[str]) -> list[Path]:
    """The slides that ``names`` stand for, in order, each once.

    A name is a file (taken as it is, there or not, so that its absence is reported), a pattern
    with ``*``, ``?`` or ``[``, or a folder, of which the files with a slide format's suffix are
    taken. The files of one DICOM series are one slide, its first file.

    Raises UsageError if a pattern or folder yields nothing, or if two slides would have the same
    id and so the same results folder.
    """
    found: dict[Path, None] = {}
    for name in names:
        for path in _expand(name):
            found.setdefault(path)
    slides = _first_of_each_series(found)
    by_id: dict[str, Path] = {}
    for slide in slides:
        other = by_id.setdefault(slide.stem.casefold(), slide)
        if other is not slide:
            raise UsageError(
                f"{other} and {slide} have the same slide id {slide.stem!r}; predict them into "
                "different folders with --out"
            )
    return slides


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        suffixes = known_suffixes()
        files = sorted(item for item in path.iterdir() if item.suffix.lower() in suffixes)
        if not files:
            raise UsageError(
                f"the folder {name} holds no slide; known: {' '.join(sorted(suffixes))}"
            )
        return files
    if glob.has_magic(name) and not path.exists():
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - name may be absolute
        if not matches:
            raise UsageError(f"no file matches {name}; check the pattern")
        return [Path(match) for match in matches]
    return [path]


def _first_of_each_series(paths: Iterable[Path]) -> list[Path]:
    seen: set[str] = set()
    slides = []
    for path in paths:
        if path.suffix.lower() == ".dcm":
            series = _dicom_series(path)
            if series is not None and series in seen:
                continue
            seen.add(series or str(path))
        slides.append(path)
    return slides


def _dicom_series(path: Path) -> str | None:
    """The series that a DICOM file belongs to; None where it cannot be read (reported later)."""
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except (openslide.OpenSlideError, OSError):
        return None
