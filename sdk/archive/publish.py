"""One result for each slide, whatever dies: made under another name, published by a rename.

Several workers may make the same result at once: one that was thought dead, cut off by the
network, may go on. Each has a folder of its own, and a rename puts a whole folder in place or fails
where there is one. So nobody ever sees half a result or a mixture of two.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason

Stamp = tuple[int, int, int] | None
"""Tells a result from one that took its place: device, inode, time of change; None: no result."""

_THERE = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENOTDIR})
"""What renaming a folder onto one that is not empty gives; EACCES on Windows."""

_TRIES = 5


def stamp_of(result: Path) -> Stamp:
    """Of the folder or file ``result``."""
    try:
        status = result.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextmanager
def attempt_place(layout: ArchiveLayout, name: str) -> Iterator[Path]:
    """A folder of the attempt ``name``, removed at the end. Raises OutputError."""
    place = layout.attempts / name
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise _cannot("write to", place.parent, error) from error
    try:
        yield place
    finally:
        discard(place, layout)


def publish(
    made: Path, final: Path, layout: ArchiveLayout, before: Hashable, serves: Callable[[], bool]
) -> bool:
    """Put ``made``, a whole result in an attempt's folder, in the place ``final``.

    ``before`` is the :func:`stamp_of` ``final`` when the attempt began: that result is replaced.
    One that came meanwhile stays if it ``serves``. Returns whether ``made`` was published. Raises
    OutputError.
    """
    for _ in range(_TRIES):
        now = stamp_of(final)
        if now is not None:
            if now != before and serves():
                return False
            discard(final, layout)
        try:
            _put(made, final)
        except OSError as error:
            if error.errno in _THERE and stamp_of(final) is not None:
                continue
            raise _cannot("publish", final, error) from error
        flush_folder(final.parent)
        return True
    raise OutputError(
        f"cannot publish {final}: other results keep taking its place; are two archives run into "
        "one folder?"
    )


_NO_LINKS = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EPERM", "EMLINK")
    if hasattr(errno, name)
)
"""What file systems without hard links answer: a file is then put in place by one rename, the last
of several equal ones."""


def _put(made: Path, final: Path) -> None:
    """Raises OSError, also if something is in the place, but for a file on a disk without links."""
    if made.is_dir():
        made.rename(final)
        return
    try:
        os.link(made, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        made.replace(final)


def discard(result: Path, layout: ArchiveLayout) -> None:
    """Remove a result or an attempt: first under another name, so that whoever still writes it
    finds nothing to publish, and nobody sees it become less. Raises OutputError."""
    gone = layout.removed / secrets.token_hex(8)
    try:
        gone.parent.mkdir(parents=True, exist_ok=True)
        result.rename(gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot("replace", result, error) from error
    _delete(gone)


def discard_all(layout: ArchiveLayout) -> None:
    """Remove what earlier runs left of attempts. Raises OutputError."""
    for folder in (layout.attempts, layout.removed):
        for left in folder.glob("*"):
            if folder == layout.removed:
                _delete(left)
            else:
                discard(left, layout)


def flush_folder(folder: Path) -> None:
    """Make renames in ``folder`` outlast a loss of power, where the system can."""
    if os.name == "nt":
        return
    # Some network file systems refuse it: their servers decide what lasts.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _delete(gone: Path) -> None:
    # What cannot be deleted now (open on Windows, NFS's .nfs files) goes with the next run.
    if gone.is_dir():
        shutil.rmtree(gone, ignore_errors=True)
    else:
        with suppress(OSError):
            gone.unlink(missing_ok=True)


def _cannot(what: str, path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot {what} {path}: {reason(error)}; free space or choose another folder with --out"
    )
