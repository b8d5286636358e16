"""Taking entries out of the engine cache: never one in use, and what is cheap to make first."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from pathgene_rt.engines.cache_entry import CacheEntry, EntryFiles, entries_in
from pathgene_rt.engines.cache_lock import held


def remove(engines: Path, entry: CacheEntry) -> bool:
    """Remove ``entry`` unless somebody makes it or has its folder open. Raises OSError."""
    files = EntryFiles(engines, entry.name)
    with held(files.locks()) as free:
        if free:
            remove_files(files)
    return free


def remove_files(files: EntryFiles) -> None:
    """Remove every file of an entry, its record first. Raises OSError."""
    files.record.unlink(missing_ok=True)
    for path in files.all():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            # Windows keeps a lock that is held; it is empty.
            with suppress(PermissionError):
                path.unlink(missing_ok=True)


def shrink(engines: Path, to_bytes: int, but: str = "") -> tuple[CacheEntry, ...]:
    """Remove entries until all take at most ``to_bytes``: the one used longest ago first, and
    calibrations last, which took minutes and a person's slides. What is in use stays, and the entry
    called ``but``. Returns the removed. Raises OSError.
    """
    entries = sorted(entries_in(engines), key=lambda entry: (entry.is_calibration, entry.used))
    total = sum(entry.size_bytes for entry in entries)
    removed = []
    for entry in entries:
        if total > to_bytes and entry.name != but and remove(engines, entry):
            total -= entry.size_bytes
            removed.append(entry)
    return tuple(removed)
