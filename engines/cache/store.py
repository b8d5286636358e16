"""Compiled engines and the decisions of `build`, kept on this machine's disk.

An entry is a data file, or a folder that a library fills, and a JSON file with its key in words,
size and checksum. The JSON is written last, and both by renaming, so that an entry is whole or
absent. What does not check out counts as absent. The cache is a help, never a need: trouble with
its folder becomes one warning.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pathgene_rt.engines.cache.entry import CacheEntry, EntryFiles, Record, entries_in
from pathgene_rt.engines.cache.keys import SCHEMA, DecisionKey, EngineKey, digest
from pathgene_rt.engines.cache.lock import acquire, remove_stale
from pathgene_rt.engines.cache.private_files import (
    make_private,
    private_folder,
    read_private,
    require_private,
)
from pathgene_rt.engines.cache.pruning import remove, shrink
from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason, sha256, writable_folder, write_bytes, write_json
from pathgene_rt.locks import try_acquire
from pathgene_rt.options import (
    NO_CACHE_FOLDER,
    EngineOptions,
    default_cache_dir,
    default_cache_limit,
)

if TYPE_CHECKING:
    from filelock import FileLock

T = TypeVar("T")

_FREE_S = 1.0
"""Within which a lock that nobody else can want is taken, also if it is being tidied away."""


class EngineCache:
    """The cache in the folder ``root``, which is made when first written to.

    Safe between processes and threads: an engine is built by one of them, and a reader sees whole
    entries. ``bundle`` names the model that entries are made for, for people. Entries beyond
    ``limit_bytes`` (None: as PATHGENE_RT_CACHE_LIMIT says) go, those used longest ago first, and
    calibrations last: they took a person's slides and minutes.

    Loading an engine runs native code on its bytes, so what another user can have written is not
    read (:mod:`pathgene_rt.engines.cache.private_files`).
    """

    def __init__(self, root: Path, *, bundle: str = "", limit_bytes: int | None = None) -> None:
        self.root = root
        self._engines = root / "engines"
        self._bundle = bundle
        self.limit_bytes = default_cache_limit() if limit_bytes is None else limit_bytes
        self._warnings: list[str] = []
        self._in_use: list[FileLock] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong with the folder, for the report."""
        return tuple(self._warnings)

    def get(self, key: EngineKey) -> bytes | None:
        """The data stored under ``key``, or None if absent or damaged."""
        return self._tried("read", lambda: self._load(key))

    def put(self, key: EngineKey, data: bytes, *, graph: str = "") -> None:
        """Store ``data`` under ``key``, replacing what was there. ``graph`` names it for people."""

        def write() -> None:
            private_folder(self._engines)
            files = self._files(key)
            write_bytes(files.data, data)
            try:
                make_private(files.data)
                self._write_record(key, graph, size=len(data), sha256=sha256(data))
            except OSError:
                files.data.unlink(missing_ok=True)
                raise

        self._tried("write", write)
        self._tried("prune", lambda: shrink(self._engines, self.limit_bytes, but=digest(key)))

    def built(
        self,
        key: EngineKey,
        make: Callable[[], bytes],
        on_wait: Callable[[], None] | None = None,
        *,
        graph: str = "",
    ) -> bytes:
        """The data stored under ``key``, else what ``make`` gives, which is then stored.

        Of several processes and threads one makes it and the others wait; ``on_wait`` is called
        once if this one must. If the one that makes it fails or is killed, the next makes it.
        Without a usable folder each makes its own, and keeps it in memory. Raises what ``make``
        raises.
        """
        if (data := self.get(key)) is not None:
            return data
        with self._locked(key, on_wait) as trouble:
            if (data := self.get(key)) is None:
                data = make()
                self.put(key, data, graph=graph)
        if trouble:  # told last: what keeps the engine from being kept matters more
            self._warn(f"two processes may build the same engine: {trouble}")
        return data

    def drop(self, key: EngineKey) -> None:
        """Forget what is stored under ``key``: the library that is to load it refuses it."""
        files = self._files(key)
        self._tried("write", lambda: files.record.unlink(missing_ok=True))
        self._tried("write", lambda: files.data.unlink(missing_ok=True))

    def folder(self, key: EngineKey, *, graph: str = "") -> Path | None:
        """A private folder of ``key``'s own, for files that a library writes and checks itself.

        It stays while this object lives. None if the cache folder cannot be used.
        """

        def open_folder() -> Path:
            private_folder(self._engines)
            files = self._files(key)
            with suppress(OSError):  # a disk without locks
                self._mark_in_use(files)
            private_folder(files.folder)
            self._write_record(key, graph)
            return files.folder

        return self._tried("write", open_folder)

    def entries(self) -> tuple[CacheEntry, ...]:
        """All that is kept but decisions, the last used first."""
        return self._tried("read", lambda: entries_in(self._engines)) or ()

    def remove(self, entry: CacheEntry) -> bool:
        """Remove ``entry``; False if it is in use: being made, or an open :meth:`folder`."""
        return bool(self._tried("prune", lambda: remove(self._engines, entry)))

    def prune(self, to_bytes: int) -> tuple[CacheEntry, ...]:
        """Remove entries that are not in use until all take at most ``to_bytes``, those used
        longest ago first, calibrations last. Returns the removed.
        """
        return self._tried("prune", lambda: shrink(self._engines, to_bytes)) or ()

    def decision(self, key: DecisionKey) -> dict[str, Any] | None:
        """What `build` found for ``key``, or None."""
        raw = self._tried("read", self._decision_file(key).read_bytes)
        try:
            record = json.loads(raw or b"null")
        except (ValueError, RecursionError):
            return None
        found = record.get("decision") if isinstance(record, dict) else None
        return found if isinstance(found, dict) else None

    def decide(self, key: DecisionKey, decision: dict[str, Any]) -> None:
        """Keep what `build` found for ``key``."""
        file = self._decision_file(key)

        def write() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"schema": SCHEMA, "key": asdict(key), "decision": decision})

        self._tried("write", write)

    def problem(self) -> str:
        """Why nothing can be kept in the folder, or an empty string. Makes the folder."""
        try:
            private_folder(self._engines)
            writable_folder(self._engines)
        except OSError as error:
            cause = error.__cause__
            return reason(cause if isinstance(cause, OSError) else error)
        return ""

    def size_bytes(self) -> int:
        """Bytes of all entries and decisions."""
        files = (path for path in self.root.rglob("*") if path.is_file())
        return self._tried("read", lambda: sum(file.stat().st_size for file in files)) or 0

    def _files(self, key: EngineKey) -> EntryFiles:
        return EntryFiles(self._engines, digest(key))

    def _decision_file(self, key: DecisionKey) -> Path:
        return self.root / "decisions" / f"{digest(key)}.json"

    def _load(self, key: EngineKey) -> bytes | None:
        require_private(self._engines)
        files = self._files(key)
        record = files.read_record()
        if record is None:
            return None
        data = read_private(files.data, record.size)
        if data is None or len(data) != record.size or sha256(data) != record.sha256:
            return None
        with suppress(OSError):  # a folder that can only be read has no order of use
            os.utime(files.record)
        return data

    def _mark_in_use(self, files: EntryFiles) -> None:
        remove_stale(files.locks() - {files.lock})
        lock = try_acquire(files.lock.with_suffix(f".{secrets.token_hex(4)}.lock"), _FREE_S)
        if lock is not None:
            self._in_use.append(lock)

    def _write_record(self, key: EngineKey, graph: str, size: int = 0, sha256: str = "") -> None:
        record = Record(
            schema=SCHEMA,
            key=key,
            bundle=self._bundle,
            graph=graph,
            made=datetime.now(UTC),
            size=size,
            sha256=sha256,
        )
        file = self._files(key).record
        write_json(file, record.to_dict())
        make_private(file)

    @contextmanager
    def _locked(self, key: EngineKey, on_wait: Callable[[], None] | None) -> Iterator[str]:
        """Hold the lock of ``key``'s maker, or say why there is none."""
        lock, trouble = None, ""
        try:
            private_folder(self._engines)
            lock = acquire(self._files(key).lock, on_wait)
        except OSError as error:
            trouble = f"cannot lock {self.root}: {reason(error)}"
        try:
            yield trouble
        finally:
            if lock is not None:
                with suppress(OSError):  # the disk went; what is made is not lost for that
                    lock.release()

    def _tried(self, doing: str, action: Callable[[], T]) -> T | None:
        """The result of ``action``; None and, the first time, a warning if the folder fails."""
        try:
            return action()
        except FileNotFoundError:
            return None
        except OutputError as error:
            self._warn(str(error))
        except OSError as error:
            self._warn(f"cannot {doing} {self.root}: {reason(error)}")
        return None

    def _warn(self, what: str) -> None:
        if not self._warnings:
            self._warnings.append(f"engine cache: {what}")


def open_cache(options: EngineOptions, bundle: str = "") -> EngineCache | None:
    """The cache that ``options`` name, for the model ``bundle``; None if it is turned off."""
    if options.cache_dir is None:
        return None
    return EngineCache(options.cache_dir, bundle=bundle, limit_bytes=options.cache_limit_bytes)


def cache_warnings(cache: EngineCache | None) -> tuple[str, ...]:
    """What went wrong with the folder of ``cache``, or that there is none for this user."""
    if cache is not None:
        return cache.warnings
    return (NO_CACHE_FOLDER,) if default_cache_dir() is None else ()
