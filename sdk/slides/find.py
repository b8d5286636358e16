"""From what a user names (files, patterns, folders) to slides, each once."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.slide_ids import file_key, has_ending
from pathgene_rt.slides.dicom.header import DicomHeader, is_dicom, read_dicom_header
from pathgene_rt.slides.registry import known_suffixes
from pathgene_rt.slides.unread import format_of_suffix

APPLE_DOUBLE = "._"
"""How files begin that macOS puts beside others on disks that are not its own."""


def find_slides(
    names: Iterable[str],
    *,
    recursive: bool = False,
    told: Callable[[str], object] = lambda _: None,
) -> list[Path]:
    """The slides that ``names`` stand for, in order, each once.

    A name is a file (taken as it is, there or not, so that its absence is reported), a pattern
    with ``*``, ``?`` or ``[``, or a folder: of that the files with a slide format's suffix are
    taken, and DICOM files without any; with ``recursive`` those of its folders too. The files of
    one DICOM series in a folder are one slide, its first file of the slide itself. Of folders and
    patterns, DICOM files of other things than slides and the companions ``._*`` that macOS writes
    are passed over. ``told`` gets a line, without names, on the slides in folders that no reader
    takes, for each of their formats.

    Raises UsageError if a pattern or folder yields nothing.
    """
    found: dict[Path, None] = {}
    series = _Series()
    unread: Counter[str] = Counter()
    for name in names:
        paths, chosen = _expand(name, unread, recursive=recursive)
        slides = [path for path in paths if series.takes(path, chosen=chosen)]
        if not slides and not chosen:
            reasons = "".join(f"; {line}" for line in _lines(unread))
            raise UsageError(_nothing(name, recursive=recursive) + reasons)
        for path in slides:
            found.setdefault(path)
    for line in _lines(unread):
        told(line)
    files: dict[str, Path] = {}
    for path in found:
        files.setdefault(file_key(path), path)
    return [path for path in files.values() if series.stands_for_its_own(path)]


class _Series:
    """The series of DICOM files, each of which is read once."""

    def __init__(self) -> None:
        self._headers: dict[Path, DicomHeader | None] = {}
        self._first: dict[tuple[Path, str], Path] = {}

    def takes(self, path: Path, *, chosen: bool) -> bool:
        """Whether ``path`` is to be opened as a slide, as far as it says; ``chosen``: the user
        named just this file.
        """
        header = self._header(path)
        if header is None:
            return True
        if not header.is_slide:
            return chosen
        key = (path.parent, header.series)
        first = self._first.setdefault(key, path)
        if header.volume and not self._is_volume(first):
            self._first[key] = path
        return True

    def stands_for_its_own(self, path: Path) -> bool:
        """Whether ``path`` is the file by which its slide is called."""
        header = self._header(path)
        if header is None or not header.is_slide:
            return True
        return self._first[path.parent, header.series] == path

    def _is_volume(self, path: Path) -> bool:
        header = self._headers[path]
        return header is not None and header.volume

    def _header(self, path: Path) -> DicomHeader | None:
        """What the file says if it is a DICOM file; None for others and those that say nothing."""
        if path not in self._headers:
            may_be = path.suffix.lower() == ".dcm" or not has_ending(path)
            self._headers[path] = read_dicom_header(path) if may_be else None
        return self._headers[path]


def _lines(unread: Counter[str]) -> list[str]:
    """What is told of files that are left out, by their ending."""
    lines = []
    for suffix, count in sorted(unread.items()):
        known = format_of_suffix(Path(f"slide{suffix}"))
        assert known is not None  # none else is counted
        lines.append(
            f"{count} {'file' if count == 1 else 'files'} left out: {suffix} is {known.name}, "
            f"which is not read here; {known.way_out}"
        )
    return lines


def _expand(name: str, unread: Counter[str], *, recursive: bool) -> tuple[list[Path], bool]:
    """The files that ``name`` may mean, and whether it is the name of one."""
    path = Path(name)
    if path.is_dir():
        return list(_slides_in(path, unread, recursive=recursive)), False
    if glob.has_magic(name) and not path.exists():
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - name may be absolute
        if not matches:
            raise UsageError(f"no file matches {name}; check the pattern")
        found = [Path(match) for match in matches]
        return [one for one in found if not one.name.startswith(APPLE_DOUBLE)], False
    return [path], True


def _slides_in(folder: Path, unread: Counter[str], *, recursive: bool) -> Iterator[Path]:
    """The files in ``folder`` that look like slides, in order; linked folders are not entered.

    Slides that no reader takes are counted in ``unread`` by their ending.
    """
    suffixes = known_suffixes()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(files):
            path = Path(place) / name
            if name.startswith(APPLE_DOUBLE):
                continue
            suffix = path.suffix.lower()
            if suffix in suffixes or (not has_ending(path) and is_dicom(path)):
                yield path
            elif suffix != ".ets" and format_of_suffix(path) is not None:
                unread[suffix] += 1


def _nothing(name: str, *, recursive: bool) -> str:
    if not Path(name).is_dir():
        return f"no slide matches {name}; check the pattern"
    known = f"known: {' '.join(sorted(known_suffixes()))}, and DICOM files without ending"
    if recursive:
        return f"the folder {name} and those in it hold no slide; {known}"
    return f"the folder {name} holds no slide; for those in its folders add --recursive ({known})"
