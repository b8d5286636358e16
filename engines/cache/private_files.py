"""Files that only their user can have written, since loading an engine runs native code on them.

On POSIX systems owner and mode tell. Windows has neither: there a new folder is open to its user
and administrators alone under the user's own folders, where the cache is by default; who puts it
elsewhere answers for that folder's permissions.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

_WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0


def private_folder(path: Path) -> None:
    """Make ``path`` for this user alone, or check that it is. Raises OSError that says why not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    require_private(path)


def require_private(path: Path) -> None:
    """Raise OSError unless ``path`` is there and only its user can write to it."""
    _check(path, path.stat())


def read_private(path: Path, limit: int) -> bytes | None:
    """The bytes of ``path``, or None if they are more than ``limit``.

    Raises OSError: FileNotFoundError, and PermissionError if another user can have written it.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        _check(path, found)
        return file.read(found.st_size) if found.st_size <= limit else None


def make_private(path: Path) -> None:
    """Take the right to write to ``path`` from everyone but its owner. Raises OSError."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_WRITE_BY_OTHERS)


def _check(path: Path, found: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    if found.st_uid not in (os.geteuid(), _ROOT):
        trouble = f"{path} belongs to another user"
    elif found.st_mode & _WRITE_BY_OTHERS:
        trouble = f"other users can write to {path}"
    else:
        return
    raise PermissionError(
        errno.EPERM,
        f"{trouble}, and engines are run as code; remove it, or set PATHGENE_RT_CACHE to a folder "
        "of your own",
    )
