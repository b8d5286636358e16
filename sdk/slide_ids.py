"""What results call a slide: a name that is safe for files, one for each slide, and stays.

A slide's id is its file's name without the ending. Where that is no name for a folder, or two
slides would have the same, it is another, and ``slides.csv`` beside the results says whose.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason, write_bytes

TABLE_FILE = "slides.csv"
MAX_ID_BYTES = 160
"""In UTF-8: file systems take 255, and results add endings."""

_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}\Z")
"""What a file's name ends with, unlike the last number of a UID."""

_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|cases|slides\.csv", re.IGNORECASE)
"""Devices of Windows, and what lies beside the folders of slides."""

_HASH_DIGITS = 8
_COLUMNS = ("slide_id", "file")
_MAX_TABLE_BYTES = 1 << 28


def has_ending(path: Path) -> bool:
    """Whether the file's name ends as file names do: ".svs", not ".840" or ".12.3"."""
    return _ENDING.search(path.name) is not None


def slide_id_of(path: Path) -> str:
    """The id of the slide ``path``, by its name alone."""
    stem = _ENDING.sub("", path.name) or path.name
    return _safe(stem, path.name)


def context_file(context: Path, slide_id: str) -> Path:
    """What is stated of a slide: the file ``context``, or ``slide_id``.json in that folder."""
    return context / f"{slide_id}.json" if context.is_dir() else context


def assign_ids(slides: Iterable[Path], known: Mapping[str, str] | None = None) -> dict[Path, str]:
    """An id for each of ``slides``, no two alike in any case of letters.

    ``known`` ids of files, by :func:`file_key`, are kept, and are no other file's. Slides whose
    names give the same id all have the name of their folder with it, or a hash of their path:
    none of them can be taken for another.
    """
    known = known or {}
    ids = {slide: known.get(file_key(slide), "") for slide in slides}
    new = [slide for slide, slide_id in ids.items() if not slide_id]
    wanted = Counter(slide_id_of(slide).casefold() for slide in new)
    kept = {slide_id.casefold() for slide_id in known.values()}
    taken = kept | set(wanted)
    for slide in new:
        plain = slide_id_of(slide)
        if wanted[plain.casefold()] == 1 and plain.casefold() not in kept:
            ids[slide] = plain
        else:
            ids[slide] = next(one for one in _longer(slide) if one.casefold() not in taken)
            taken.add(ids[slide].casefold())
    return ids


def changed(ids: Mapping[Path, str]) -> bool:
    """Whether any slide has another id than its file's name says."""
    return any(slide_id != _ENDING.sub("", path.name) for path, slide_id in ids.items())


def read_table(folder: Path) -> dict[str, str]:
    """Ids by :func:`file_key`, as ``slides.csv`` in ``folder`` has them; empty if there is none.

    Raises UsageError if it is no such table.
    """
    path = folder / TABLE_FILE
    try:
        with path.open(encoding="utf-8", errors="surrogatepass", newline="") as file:
            rows = list(csv.reader(io.StringIO(file.read(_MAX_TABLE_BYTES))))
    except FileNotFoundError:
        return {}
    except (OSError, csv.Error) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: cannot be read ({why}); move it away") from error
    if not rows or tuple(rows[0]) != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
        raise UsageError(
            f"{path}: is not the table of slide ids that belongs there; move it away, or choose "
            "another --out"
        )
    return {file: slide_id for slide_id, file in rows[1:]}


def write_table(folder: Path, ids: Mapping[Path, str]) -> None:
    """Add ``ids`` to ``slides.csv`` in ``folder``. Raises UsageError, OutputError."""
    table = read_table(folder) | {file_key(slide): slide_id for slide, slide_id in ids.items()}
    text = io.StringIO()
    rows: Sequence[tuple[str, str]] = sorted((slide_id, file) for file, slide_id in table.items())
    csv.writer(text).writerows([_COLUMNS, *rows])
    write_bytes(folder / TABLE_FILE, text.getvalue().encode("utf-8", "surrogatepass"))


def file_key(path: Path) -> str:
    """What tells a file from others: its path from the root, however its folder was named."""
    return str(path.parent.resolve() / path.name)


def _longer(slide: Path) -> Iterable[str]:
    """Ids of which one is no other slide's."""
    plain, folder = slide_id_of(slide), slide.parent.resolve().name
    yield _safe(f"{plain}~{folder}", f"{slide.name}/{folder}")
    yield _safe(f"{plain}~{_digest(file_key(slide))}", file_key(slide))


def _safe(text: str, whole: str) -> str:
    """``text`` if it can be a folder's name everywhere; else what is left of it, and a hash of
    ``whole``, of which it is a part.
    """
    safe = "".join(one if one.isprintable() else "_" for one in _UNSAFE.sub("_", text))
    safe = re.sub(r"^\.+", "_", safe.rstrip(". "))
    while len(safe.encode()) > MAX_ID_BYTES:
        safe = safe[:-1]
    if safe == text and not _RESERVED.fullmatch(safe):
        return text
    return f"{safe or '_'}~{_digest(whole)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
