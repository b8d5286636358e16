"""Finds what was removed, changed or reordered in an audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.audit.chain import (
    NOTHING_BEFORE,
    SUFFIX,
    Head,
    Line,
    head_path,
    rotated_files,
)
from pathgene_rt.errors import FileAccessError, UsageError, VerificationError
from pathgene_rt.files import reason

_MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class VerifiedTrail:
    """A trail that is whole: ``lines`` from number ``first`` on in ``files``, the last of the hash
    ``sha256``. ``note`` is what a reader should know; empty if nothing."""

    trail: Path
    files: tuple[Path, ...]
    first: int
    lines: int
    sha256: str
    note: str = ""


def verify_trails(path: Path, *, anchor: str = "", after: str = "") -> list[VerifiedTrail]:
    """:func:`verify_trail` of the file ``path``, or of each trail in the folder ``path``.

    Raises UsageError if there is none.
    """
    if not path.is_dir():
        return [verify_trail(path, anchor=anchor, after=after)]
    files = {one for one in path.iterdir() if one.suffix == SUFFIX}
    headed = {one.with_suffix("") for one in path.iterdir() if one.name.endswith(f"{SUFFIX}.head")}
    older = {older for trail in files | headed for older in rotated_files(trail).values()}
    # Of files that were renamed, their trail is looked for even where nothing else is left of it.
    lost = {one.with_name(f"{one.stem.rpartition('.')[0]}{SUFFIX}") for one in _renamed(files)}
    trails = sorted((files - older - _renamed(files)) | headed | lost)
    if not trails:
        raise UsageError(f"{path} holds no audit trail; name a file NAME.jsonl or its folder")
    return [verify_trail(trail, anchor=anchor, after=after) for trail in trails]


def verify_trail(trail: Path, *, anchor: str = "", after: str = "") -> VerifiedTrail:
    """Read all of ``trail``, with the files that it was renamed to, and check that nothing in it
    was removed, changed or reordered, at the end neither.

    ``anchor`` is the hash of a line that was noted elsewhere: it must be there. Whoever can write
    to the trail's folder can make the whole trail and its head anew; an anchor, or a signature of
    the head, holds against that, too. ``after`` is what the first line goes on from where older
    files were taken away. A file that was renamed can be verified by itself: its end then is not.

    Raises VerificationError with the file, the line and what is wrong; UsageError,
    FileAccessError.
    """
    single = trail in _renamed({trail})
    files = [trail] if single else [*rotated_files(trail).values(), trail]
    head = None if single else Head.read(trail)
    if head is None and not any(file.exists() for file in files):
        raise UsageError(f"there is no audit trail {trail}; check the path")
    sequence, digest, first, seen = _begin(files, after, single=single)
    anchored = not anchor
    began = 0
    marks = {}
    for file in files:
        if not file.exists():
            continue
        began = sequence
        for number, raw in _lines(file):
            try:
                line = Line.parse(raw)
                line.require_after(sequence, digest)
            except ValueError as error:
                raise VerificationError(f"{file}: line {number} {error}") from error
            sequence, digest = line.sequence, line.sha256
            anchored = anchored or digest == anchor
            seen += 1
            if head is not None and sequence == head.sequence:
                marks["head"] = digest
    if not anchored:
        raise VerificationError(f"{trail}: no line has the hash {anchor}: it was made anew or cut")
    note = "a file that was renamed: its last line is held by the next file alone"
    if not single:
        note = _against_head(trail, head, sequence, marks.get("head"), began)
    return VerifiedTrail(
        trail=trail,
        files=tuple(file for file in files if file.exists()),
        first=first,
        lines=seen,
        sha256=digest,
        note=note,
    )


def _begin(files: list[Path], after: str, *, single: bool) -> tuple[int, str, int, int]:
    """(number and hash of the line before the first, number of the first, 0)."""
    if not single and not after:
        return 0, NOTHING_BEFORE, 1, 0
    for file in files:
        for _, raw in _lines(file) if file.exists() else ():
            try:
                line = Line.parse(raw)
            except ValueError as error:
                raise VerificationError(f"{file}: line 1 {error}") from error
            return line.sequence - 1, after or line.previous, line.sequence, 0
    return 0, after or NOTHING_BEFORE, 1, 0


def _against_head(
    trail: Path, head: Head | None, sequence: int, digest: str | None, began: int
) -> str:
    """Compare the end with the head; what there is to note. Raises VerificationError."""
    where = head_path(trail)
    if head is None:
        raise VerificationError(
            f"{where} is missing, so that lines may have been cut off {trail}; it was removed, or "
            "the first line's writer was killed: the next line mends that"
        )
    if sequence < head.sequence:
        raise VerificationError(
            f"{trail}: ends with line {sequence}, its head says {head.sequence}: lines were cut off"
        )
    if digest != (head.sha256 if head.sequence else None):
        raise VerificationError(f"{trail}: line {head.sequence} is not the one of its head")
    if sequence > head.sequence + 1:
        raise VerificationError(
            f"{trail}: goes on to line {sequence}, its head says {head.sequence}: lines were added"
        )
    if sequence > head.sequence:
        return "one line is newer than the head: its writer was killed; the next line mends that"
    if trail.exists() and (head.first != began + 1 or trail.stat().st_size != head.size):
        raise VerificationError(f"{where}: does not fit {trail}: it was changed")
    return ""


def _renamed(files: set[Path]) -> set[Path]:
    """Those whose names are of files that were renamed."""
    return {
        file
        for file in files
        if file.suffix == SUFFIX
        and file
        in rotated_files(
            file.with_name(f"{file.stem.rpartition('.')[0] or file.stem}{SUFFIX}")
        ).values()
    }


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number. Raises FileAccessError."""
    try:
        with file.open("rb") as opened:
            number = 0
            while raw := opened.readline(_MAX_LINE_BYTES):
                number += 1
                yield number, raw
    except OSError as error:
        raise FileAccessError(f"cannot read {file}: {reason(error)}") from error
