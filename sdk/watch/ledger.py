"""What became of each slide: a SQLite file beside the results, which watchers share."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pathgene_rt.errors import OutputError
from pathgene_rt.locks import sole_writer

LEDGER_FILE = "watch.sqlite"
SCHEMA_VERSION = 1
_LOCK_WAIT_S = 60.0
_STALE_S = 3600.0

State = Literal["waiting", "running", "retry", "done", "failed"]

_SCHEMA = """
CREATE TABLE slides (
    file TEXT PRIMARY KEY,
    slide_id TEXT NOT NULL UNIQUE COLLATE NOCASE,
    signature TEXT NOT NULL,
    state TEXT NOT NULL,
    renewed INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    first_try REAL,
    next_try REAL NOT NULL DEFAULT 0,
    code INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    worker TEXT NOT NULL DEFAULT '',
    changed REAL NOT NULL,
    hook_due INTEGER NOT NULL DEFAULT 0,
    hook_tries INTEGER NOT NULL DEFAULT 0,
    hook_next REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX by_state ON slides (state);
CREATE INDEX by_hook ON slides (hook_due);
CREATE TABLE watchers (worker TEXT PRIMARY KEY, seen REAL NOT NULL, doing TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A slide in the ledger.

    ``file`` is its path in the inbox, ``slide_id`` what results call it; or the pseudonyms of
    these. Times are seconds since 1970. ``tries`` are those of this ``signature``; ``crashes`` of
    them ended their process. ``renewed``: an earlier result is of other files. ``hook_due``: the
    command for what is done is still to be run.
    """

    file: str
    slide_id: str
    signature: str
    state: State
    renewed: bool
    tries: int
    crashes: int
    first_try: float | None
    next_try: float
    code: int | None
    reason: str
    worker: str
    changed: float
    hook_due: bool
    hook_tries: int
    hook_next: float


def worker_name() -> str:
    """This process, as others read it."""
    return f"{platform.node()} {os.getpid()}"


class Ledger:
    """The ledger in the folder ``out``. Every access holds a lock of ours, also over shares on
    which SQLite's own are not to be relied on, and is on the disk when it ends."""

    def __init__(self, out: Path) -> None:
        self.path = out / LEDGER_FILE
        with self._open() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                database.executescript(
                    f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
                )
            elif version != SCHEMA_VERSION:
                raise OutputError(
                    f"{self.path}: is of version {version}, this pathgene-rt writes "
                    f"{SCHEMA_VERSION}; choose another --out"
                )

    def entry(self, file: str) -> Entry | None:
        with self._open() as database:
            return _one(database, "file = ?", file)

    def entries(self, files: list[str]) -> dict[str, Entry]:
        """Those of ``files`` that are known."""
        with self._open() as database:
            found = (_one(database, "file = ?", file) for file in files)
            return {one.file: one for one in found if one is not None}

    def in_state(self, state: State) -> list[Entry]:
        with self._open() as database:
            return _all(database, "state = ? ORDER BY changed", state)

    def hooks_due(self, now: float) -> list[Entry]:
        with self._open() as database:
            return _all(database, "hook_due = 1 AND hook_next <= ? ORDER BY changed", now)

    def counts(self) -> dict[str, int]:
        with self._open() as database:
            return dict(database.execute("SELECT state, count(*) FROM slides GROUP BY state"))

    def enter(self, file: str, ids: Iterable[str], signature: str) -> Entry:
        """The slide's entry, made if there is none, with the first of ``ids`` that no other has,
        which is kept. One whose files changed since it was done or failed is waiting again."""
        with self._open() as database:
            found = _one(database, "file = ?", file)
            if found is None:
                database.execute(
                    "INSERT INTO slides (file, slide_id, signature, state, changed) "
                    "VALUES (?, ?, ?, 'waiting', ?)",
                    (file, _free_id(database, ids), signature, time.time()),
                )
            elif found.signature != signature:
                self._set(
                    database,
                    file,
                    signature=signature,
                    state="waiting",
                    renewed=1,
                    tries=0,
                    crashes=0,
                    first_try=None,
                    next_try=0.0,
                    code=None,
                    reason="",
                )
            entry = _one(database, "file = ?", file)
            assert entry is not None  # made or found just now, in this transaction
            return entry

    def begin(self, file: str) -> Entry:
        """The slide is being predicted by this process, which holds its claim: whoever was before
        is gone, and counts as crashed."""
        with self._open() as database:
            found = _one(database, "file = ?", file)
            assert found is not None  # entered before
            now = time.time()
            self._set(
                database,
                file,
                state="running",
                tries=found.tries + 1,
                crashes=found.crashes + (found.state == "running"),
                first_try=found.first_try or now,
                worker=worker_name(),
            )
            entry = _one(database, "file = ?", file)
            assert entry is not None
            return entry

    def done(self, file: str, *, hook: bool) -> None:
        with self._open() as database:
            self._set(
                database,
                file,
                state="done",
                renewed=0,
                code=None,
                reason="",
                hook_due=int(hook),
                hook_tries=0,
                hook_next=0.0,
            )

    def failed(self, file: str, code: int, reason: str) -> None:
        with self._open() as database:
            self._set(database, file, state="failed", code=code, reason=reason)

    def again(self, file: str, next_try: float, code: int | None = None, reason: str = "") -> None:
        """The slide is tried again from ``next_try`` on."""
        with self._open() as database:
            self._set(database, file, state="retry", next_try=next_try, code=code, reason=reason)

    def put_back(self, file: str) -> None:
        """The slide was not tried to the end, through no fault of its own, or is to be tried
        afresh."""
        with self._open() as database:
            self._set(
                database, file, state="waiting", tries=0, crashes=0, first_try=None, next_try=0.0
            )

    def hook_ended(self, file: str, *, due: bool, next_try: float = 0.0) -> None:
        """The command was run; ``due``: it failed and is run again."""
        with self._open() as database:
            database.execute(
                "UPDATE slides SET hook_due = ?, hook_tries = hook_tries + 1, hook_next = ? "
                "WHERE file = ?",
                (int(due), next_try, file),
            )

    def seen(self, doing: str) -> None:
        """This watcher is there."""
        with self._open() as database:
            now = time.time()
            database.execute("DELETE FROM watchers WHERE seen < ?", (now - _STALE_S,))
            database.execute(
                "INSERT INTO watchers VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET seen = excluded.seen, doing = excluded.doing",
                (worker_name(), now, doing),
            )

    def left(self) -> None:
        """This watcher ends."""
        with self._open() as database:
            database.execute("DELETE FROM watchers WHERE worker = ?", (worker_name(),))

    def watchers(self) -> list[tuple[str, float, str]]:
        """(worker, when it was last seen, what it does) of those of the last hour."""
        with self._open() as database:
            return list(database.execute("SELECT worker, seen, doing FROM watchers ORDER BY 1"))

    def _set(self, database: sqlite3.Connection, file: str, **values: Any) -> None:
        values["changed"] = time.time()
        names = ", ".join(f"{name} = ?" for name in values)
        database.execute(f"UPDATE slides SET {names} WHERE file = ?", (*values.values(), file))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises OutputError, FileAccessError."""
        with sole_writer(self.path, _LOCK_WAIT_S):
            try:
                with closing(sqlite3.connect(self.path, timeout=_LOCK_WAIT_S)) as database:
                    database.execute("PRAGMA synchronous = FULL")
                    with database:
                        yield database
            except sqlite3.Error as error:
                raise OutputError(
                    f"cannot use {self.path}: {error}; free space, or restore it from a backup"
                ) from error


_COLUMNS = tuple(Entry.__dataclass_fields__)


def _all(database: sqlite3.Connection, where: str, *values: Any) -> list[Entry]:
    rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM slides WHERE {where}", values)
    found = (dict(zip(_COLUMNS, row, strict=True)) for row in rows)
    flags = ("renewed", "hook_due")
    return [Entry(**one | {flag: bool(one[flag]) for flag in flags}) for one in found]


def _one(database: sqlite3.Connection, where: str, *values: Any) -> Entry | None:
    return next(iter(_all(database, where, *values)), None)


def _free_id(database: sqlite3.Connection, ids: Iterable[str]) -> str:
    """The first that no other slide has; the last if all are taken, which SQLite then refuses."""
    for slide_id in ids:
        if _one(database, "slide_id = ?", slide_id) is None:
            break
    return slide_id
