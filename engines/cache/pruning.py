"""Taking entries out of the engine cache: never one in use, and what is cheap to make first."""

from __future__ import annotations

import shutil
from pathlib import Path

from pathgene_rt.engines.cache.entry import CacheEntry, EntryFiles, entries_in
from pathgene_rt.engines.cache.lock import held
from pathgene_rt.locks import unlink


def remove(engines: Path, entry: CacheEntry) -> bool:
    """Remove ``entry`` unless somebody makes it or has its folder open. Raises OSError."""
    files = EntryFiles(engines, entry.name)
    locks = files.locks()
    with held(locks) as free:
        if free:
            files.record.unlink(missing_ok=True)
            for path in files.all() - locks:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in locks:
                unlink(path)
    return free


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
