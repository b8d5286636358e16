"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from pathgene_rt.errors import OutputError


def sha256(data: bytes) -> str:
    """Hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether ``name`` is a plain relative path with forward slashes that stays inside."""
    parts = name.split("/")
    return (
        0 < len(name) < 240
        and name.isprintable()
        and not any(character in name for character in '\\:*?"<>|')
        and all(part not in ("", ".", "..") and not part.endswith((".", " ")) for part in parts)
    )


_LONGEST_BYTES = 200
"""Of a name that others are made of: file systems take 255."""


def beside(name: str) -> str:
    """What names of files that belong to ``name`` begin with: it, or if it is long a shorter one
    that no other name has."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST_BYTES:
        return name
    return f"{data[: _LONGEST_BYTES // 2].decode(errors='ignore')}~{sha256(data)[:16]}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block succeeds.

    On any exception the temporary file is removed and ``path`` is as it was before. ``OSError``
    (no space, no permission) becomes :class:`OutputError`.
    """
    temporary = path.with_name(f".{beside(path.name)}.{secrets.token_hex(4)}.part")
    try:
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write {path}: {reason(error)}; free space or choose another folder"
        ) from error


def remove_unfinished(result: Path) -> None:
    """Remove what killed processes left of ``result``, a file or a folder of files, under the names
    that :func:`atomic_path` gives. Raises :class:`OutputError`.
    """
    folder, names = (result, "*") if result.is_dir() else (result.parent, f"{_start(result)}*")
    try:
        for path in folder.glob(f".{names}.part"):
            unfinished = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part", path.name)
            if unfinished and (result.is_dir() or unfinished[1] in _names_of(result.name)):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot tidy up in {folder}: {reason(error)}; choose another with --out"
        ) from error


def partial_names(name: str) -> tuple[str, str]:
    """Names of a file that is written over a long time, and of the log of its parts."""
    return f"{beside(name)}.partial", f"{beside(name)}.partial.log"


def _start(result: Path) -> str:
    """A pattern for what all names that belong to ``result`` begin with."""
    return escape(result.name[: _LONGEST_BYTES // 8])


def _names_of(name: str) -> tuple[str, ...]:
    return tuple(beside(other) for other in (name, *partial_names(name)))


def write_bytes(
    path: Path, data: bytes, *, before_it_counts: Callable[[], object] | None = None
) -> None:
    """Write ``data`` atomically and flush it to the disk. Raises :class:`OutputError`.

    ``before_it_counts`` is called when the data is on the disk, but not yet under its name; if it
    raises, ``path`` is as it was.
    """
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before_it_counts is not None:
            before_it_counts()


def json_bytes(document: Any) -> bytes:
    """``document`` as indented UTF-8 JSON. NaN and infinity are refused."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as :func:`json_bytes`, atomically. Raises :class:`OutputError`."""
    write_bytes(path, json_bytes(document))


def writable_folder(path: Path) -> Path:
    """Create ``path`` if need be and prove that a file can be written in it.

    Called before hours of work are spent. Raises :class:`OutputError`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"pathgene-rt")
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {path}: {reason(error)}; choose another with --out"
        ) from error
    return path


def reason(error: OSError) -> str:
    """The operating system's words, without the path that the caller names already."""
    return error.strerror or str(error)
