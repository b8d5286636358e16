"""A run's state in one SQLite file, for people and programs: what became of each slide and worker.

The run alone writes it. It decides nothing: what is done is told by the results themselves, so a
file that is lost or some seconds old costs no result and doubles none.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pathgene_rt.archive.source import ArchiveSlide
from pathgene_rt.archive.tasks import Ended, Hello
from pathgene_rt.errors import OutputError

SCHEMA_VERSION = 1
COMMIT_S = 1.0
"""How old the file may be while a run writes it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    run INTEGER PRIMARY KEY, kind TEXT NOT NULL, began REAL NOT NULL, ended REAL, outcome TEXT,
    host TEXT NOT NULL, pid INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS slide (
    slide TEXT PRIMARY KEY, source TEXT NOT NULL, bytes INTEGER NOT NULL, case_id TEXT NOT NULL,
    state TEXT NOT NULL, run INTEGER, worker INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    ended REAL, seconds REAL, tiles INTEGER, kind TEXT, message TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS case_result (
    case_id TEXT PRIMARY KEY, state TEXT NOT NULL, run INTEGER, kind TEXT, message TEXT
    ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worker (
    run INTEGER NOT NULL, worker INTEGER NOT NULL, node TEXT, pid INTEGER, engine TEXT,
    opened REAL, ended REAL, reason TEXT, PRIMARY KEY (run, worker)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (run INTEGER NOT NULL, at REAL NOT NULL, what TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS slide_state ON slide (state);
"""


class ArchiveState:
    """The state file ``path``, open for one run. Times are seconds since 1970 of this machine's
    clock alone. Methods raise OutputError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run = 0
        self._committed_s = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        with self._writing():
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise OutputError(
                    f"{path} is of another version of pathgene-rt; choose another --out, or remove "
                    "it: what is done is found again"
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def begin(
        self,
        kind: str,
        slides: Iterable[ArchiveSlide],
        host: str,
        pid: int,
        facts: Mapping[str, Any],
    ) -> frozenset[str]:
        """A new run over ``slides``. Returns the ids of those that failed in an earlier one."""
        with self._writing():
            self._db.execute("BEGIN")
            cursor = self._db.execute(
                "INSERT INTO run (kind, began, host, pid, facts) VALUES (?, ?, ?, ?, ?)",
                (kind, time.time(), host, pid, json.dumps(facts)),
            )
            self.run = int(cursor.lastrowid or 0)
            failed = self._db.execute("SELECT slide FROM slide WHERE state = 'failed'")
            before = frozenset(str(row[0]) for row in failed)
            self._db.executemany(
                "INSERT INTO slide (slide, source, bytes, case_id, state, run) "
                "VALUES (?, ?, ?, ?, 'waiting', ?) ON CONFLICT (slide) DO UPDATE SET "
                "source = excluded.source, bytes = excluded.bytes, case_id = excluded.case_id, "
                "state = 'waiting', run = excluded.run, worker = NULL, attempts = 0",
                ((one.slide_id, one.shown_source, one.size, one.case, self.run) for one in slides),
            )
            self._db.execute("COMMIT")
            self._db.execute("BEGIN")
        return before

    def began(self, slide: str, worker: int) -> None:
        self._write(
            "UPDATE slide SET state = 'running', worker = ?, attempts = attempts + 1 "
            "WHERE slide = ?",
            (worker, slide),
        )

    def waits_again(self, slide: str) -> None:
        self._write("UPDATE slide SET state = 'waiting' WHERE slide = ?", (slide,))

    def ended(self, slide: str, ended: Ended) -> None:
        """A slide is done, skipped or failed. What an earlier run measured of one that is skipped
        stays."""
        self._write(
            "UPDATE slide SET state = ?, ended = ?, kind = ?, message = ?, "
            "seconds = CASE WHEN ? = 'skipped' THEN seconds ELSE ? END, "
            "tiles = CASE WHEN ? = 'skipped' THEN tiles ELSE ? END WHERE slide = ?",
            (
                ended.outcome,
                time.time(),
                ended.kind or None,
                ended.message or ended.note or None,
                ended.outcome,
                ended.seconds,
                ended.outcome,
                ended.tiles,
                slide,
            ),
        )

    def case_ended(self, case: str, ended: Ended) -> None:
        self._write(
            "INSERT OR REPLACE INTO case_result VALUES (?, ?, ?, ?, ?)",
            (case, ended.outcome, self.run, ended.kind or None, ended.message or None),
        )

    def worker_opened(self, worker: int, hello: Hello) -> None:
        self._write(
            "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
            (self.run, worker, hello.node, hello.pid, hello.engine, time.time()),
        )

    def worker_ended(self, worker: int, reason: str) -> None:
        self._write(
            "UPDATE worker SET ended = ?, reason = ? WHERE run = ? AND worker = ?",
            (time.time(), reason, self.run, worker),
        )

    def event(self, what: str) -> None:
        """A line of the run's timeline."""
        self._write("INSERT INTO event VALUES (?, ?, ?)", (self.run, time.time(), what))

    def commit(self, *, now: bool = False) -> None:
        """Let others see what was written, once a second unless ``now``."""
        if now or time.monotonic() - self._committed_s > COMMIT_S:
            with self._writing():
                self._db.execute("COMMIT")
                self._db.execute("BEGIN")
            self._committed_s = time.monotonic()

    def close(self, outcome: str) -> None:
        """The run has ended. Idempotent."""
        if self.run:
            self._write(
                "UPDATE run SET ended = ?, outcome = ? WHERE run = ?",
                (time.time(), outcome, self.run),
            )
            self._write("UPDATE slide SET state = 'waiting' WHERE state = 'running'", ())
            self.commit(now=True)
            self.run = 0
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("done" if kind is None else f"stopped by {kind.__name__}")

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._writing():
            self._db.execute(statement, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> OutputError:
        return OutputError(
            f"cannot write the state {self._path}: {error}; free space, or choose a folder on "
            "another disk with --out"
        )
