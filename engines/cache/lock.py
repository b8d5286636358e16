"""Waiting for locks between processes and threads, and tidying up those that nobody holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.locks import try_acquire, unlink

if TYPE_CHECKING:
    from filelock import FileLock

LONGEST_WAIT_S = 3600.0
"""Longer than the slowest build; who holds a lock so long hangs, and nobody shall hang with him."""


def acquire(path: Path, on_wait: Callable[[], None] | None = None) -> FileLock:
    """Lock the file ``path``; ``on_wait`` is called once if another holds it.

    The system drops a lock when its process ends, however it ends. Raises OSError if the disk has
    no locks or cannot be written, TimeoutError after LONGEST_WAIT_S.
    """
    if (lock := try_acquire(path)) is not None:
        return lock
    if on_wait is not None:
        on_wait()
    if (lock := try_acquire(path, LONGEST_WAIT_S)) is not None:
        return lock
    raise TimeoutError(f"another process has held {path.name} for {LONGEST_WAIT_S / 60:.0f} min")


def remove_stale(paths: Iterable[Path]) -> None:
    """Remove those of ``paths`` that no process holds any more. Raises OSError."""
    for path in paths:
        with held([path]) as free:
            if free:
                unlink(path)


@contextmanager
def held(paths: Iterable[Path]) -> Iterator[bool]:
    """Hold all of ``paths``, or say False: another holds one of them. Raises OSError."""
    with ExitStack() as stack:
        for path in paths:
            lock = try_acquire(path)
            if lock is None:
                yield False
                return
            stack.callback(lock.release)
        yield True
