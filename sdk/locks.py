"""Locks between processes and threads, which end with the process that holds them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.errors import FileAccessError, OutputError
from pathgene_rt.files import beside, reason, remove_unfinished, writable_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock, FileLock

_NO_LOCKS = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")
    if hasattr(errno, name)
)
"""What file systems without locks answer: Lustre without -o flock, some FUSE and NFS mounts."""

_TAKEOVER_S = 0.5
"""For the marker of a process that is gone to be recognised and replaced."""


def try_acquire(path: Path, timeout_s: float = 0.0) -> FileLock | None:
    """Lock the file ``path``, or None if another holds it for so long.

    The system drops a lock when its process ends, however it ends. Raises OSError, also where the
    disk has no locks.
    """
    from filelock import FileLock, Timeout  # 60 ms to import

    # A file whose mere existence locks would outlive a killed process: rather no lock than that.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return None
    return lock


def unlink(path: Path) -> None:
    """Remove a lock's file while it is held: whoever waits for it makes a new one. Windows does
    not remove what is open, but tidies up when the lock is released.
    """
    with suppress(PermissionError):
        path.unlink(missing_ok=True)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """``folder``, made if there is none, with nobody else writing there while the block runs. One
    that was made here is removed again if the block raises before anything is in it.

    Raises as :func:`~pathgene_rt.files.writable_folder` and :func:`sole_writer`.
    """
    made = not folder.exists()
    try:
        with sole_writer(writable_folder(folder)):
            yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def sole_writer(result: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Nobody else writes ``result``, a file or an existing folder, while the block runs.

    The lock is a hidden file in the folder or beside the file. It is the system's, also over NFS
    and SMB, and ends with the process. On a disk that has none, a marker beside it names its
    process and computer: it counts until it is removed, or until that process is found gone from
    the same computer. What killed writers left of ``result`` under other names is removed first.

    Raises FileAccessError if another process or thread holds it for ``wait_s`` more, OutputError if
    the lock cannot be written.
    """
    path = result / ".lock" if result.is_dir() else result.with_name(f".{beside(result.name)}.lock")
    marker = path.with_name(f"{path.name}.held")
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        lock = _locked(path, marker, wait_s)
    except OSError as error:
        raise OutputError(
            f"cannot lock {path}: {reason(error)}; choose another folder with --out"
        ) from error
    if lock is None:
        raise FileAccessError(f"{result}: another process is writing it{_holder(marker)}")
    try:
        remove_unfinished(result)
        yield
    finally:
        unlink(path)
        lock.release()


def _locked(path: Path, marker: Path, wait_s: float) -> BaseFileLock | None:
    """The system's lock of ``path``, or where there is none the ``marker``; None if another has it.
    Raises OSError."""
    from filelock import SoftFileLock, Timeout

    try:
        return try_acquire(path, wait_s)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    lock = SoftFileLock(marker, thread_local=False)
    try:
        lock.acquire(timeout=max(wait_s, _TAKEOVER_S))
    except Timeout:
        return None
    return lock


def _holder(marker: Path) -> str:
    """What to do about the other process, which a marker names."""
    try:
        process, computer = marker.read_text(encoding="utf-8").split("\n")[:2]
    except (OSError, ValueError):
        return "; wait for it to end, or choose another --out"
    return (
        f" (process {process} on {computer}); wait for it to end, or, if no such process runs, "
        f"remove {marker}"
    )
