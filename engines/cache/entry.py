"""One entry of the engine cache: its files, its record in words, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from pathgene_rt.engines.cache.keys import SCHEMA, EngineKey, digest
from pathgene_rt.engines.cache.private_files import read_private, require_private

_LONGEST_RECORD = 1 << 16
_LOCK = ".lock"
_OURS = re.compile(r"\.?([0-9a-f]{64})(\..*)?")
"""Names of an entry's files: its digest, and what follows it; a dot before it while written."""


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class Record:
    """What the JSON beside an entry's data says. ``bundle`` and ``graph`` are names for people.

    ``sha256`` and ``size`` (bytes) are the data's; empty and 0 where the entry is a folder.
    """

    schema: int
    key: EngineKey
    bundle: str
    graph: str
    made: datetime
    size: int = 0
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "made": self.made.isoformat(timespec="seconds")}


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class EntryFiles:
    """Where the entry called ``name`` lies: a record, its data or its folder, and its locks."""

    engines: Path
    name: str

    @property
    def record(self) -> Path:
        return self.engines / f"{self.name}.json"

    @property
    def data(self) -> Path:
        return self.engines / f"{self.name}.bin"

    @property
    def folder(self) -> Path:
        return self.engines / f"{self.name}.files"

    @property
    def lock(self) -> Path:
        """Held while the entry is made."""
        return self.engines / f"{self.name}{_LOCK}"

    def all(self) -> set[Path]:
        """Every file and folder of the entry, also those that a killed process left half done."""
        return {path for path in self.engines.iterdir() if _name(path) == self.name}

    def locks(self) -> set[Path]:
        """That of its maker, and one of each cache that has its folder open."""
        return {self.lock, *(path for path in self.all() if path.suffix == _LOCK)}

    def read_record(self) -> Record | None:
        """The record, or None if it is not one or not this entry's. Raises OSError."""
        raw = read_private(self.record, _LONGEST_RECORD)
        try:
            record = _RECORD.validate_json(raw or b"")
        except ValidationError:
            return None
        foreign = record.schema != SCHEMA or digest(record.key) != self.name
        return None if foreign else record


@dataclass(frozen=True)
class CacheEntry:
    """What is kept under ``name``. ``record`` is None if it cannot be read; ``damage`` says what
    keeps the entry from being loaded, or is empty. ``used`` is when it was last made or loaded.
    """

    name: str
    record: Record | None
    size_bytes: int
    used: datetime
    damage: str = ""

    @property
    def is_calibration(self) -> bool:
        return self.record is not None and self.record.key.content == "calibration"


def entries_in(engines: Path) -> tuple[CacheEntry, ...]:
    """All entries in the folder ``engines``, last used first. Raises OSError, also if others can
    write to the folder.

    Checksums are left to loading: they need all bytes.
    """
    require_private(engines)
    names: dict[str, list[Path]] = {}
    for path in engines.iterdir():
        if (name := _name(path)) and path.suffix != _LOCK:
            names.setdefault(name, []).append(path)
    entries = [_entry(EntryFiles(engines, name), paths) for name, paths in names.items()]
    return tuple(sorted(entries, key=lambda entry: entry.used, reverse=True))


def _name(path: Path) -> str:
    """The digest of the entry that ``path`` is of, or an empty string."""
    found = _OURS.fullmatch(path.name)
    return found[1] if found else ""


def _entry(files: EntryFiles, paths: Iterable[Path]) -> CacheEntry:
    sizes, times = [0], [0.0]
    for path in paths:
        for file in (path, *path.rglob("*")):
            try:
                found = file.stat()
            except OSError:  # removed meanwhile, by another process
                continue
            sizes.append(0 if file.is_dir() else found.st_size)
            times.append(found.st_mtime)
    try:
        record = files.read_record()
        damage = _damage(files, record)
    except FileNotFoundError:
        record, damage = None, "unfinished"
    except OSError as error:
        record, damage = None, f"cannot be read: {error.strerror}"
    return CacheEntry(
        files.name, record, sum(sizes), datetime.fromtimestamp(max(times), UTC), damage
    )


def _damage(files: EntryFiles, record: Record | None) -> str:
    if record is None:
        return "its record is damaged, or another version's"
    whole = files.data.stat().st_size == record.size if record.sha256 else files.folder.is_dir()
    return "" if whole else "its data is missing or cut off"
