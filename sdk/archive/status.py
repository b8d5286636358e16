"""How far an archive is, from its state file: for people and programs, from any machine that sees
the folder, while a run goes on or after it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.state import SCHEMA_VERSION
from pathgene_rt.archive.state_mirror import state_copy
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.stores import is_url
from pathgene_rt.errors import OutputError
from pathgene_rt.files import beside
from pathgene_rt.locks import try_acquire

RECENT_S = 600.0
"""What rates are of."""

MAX_EVENTS = 10_000

GONE_S = 180.0
"""Without a new copy of its state in the store, a run is taken to be gone."""

Activity = Literal["running", "paused", "ended", "stopped"]


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One machine: workers that live, and what they have done in this run. ``seconds`` is the sum
    over slides."""

    node: str
    workers: int
    died: int
    slides: int
    tiles: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ArchiveStatus:
    """``slides`` counts by state (waiting, running, done, skipped, failed), ``failures`` those that
    failed by kind of error, with an example's name and reason. Rates are of the last ten minutes of
    the run, 0 where nothing was done; ``eta_s`` None where that cannot tell how long it will take.
    """

    kind: str
    bundle: str
    bundle_sha256: str
    activity: Activity
    outcome: str
    began: float
    ended: float | None
    slides: dict[str, int]
    cases: dict[str, int]
    bytes_total: int
    bytes_done: int
    slides_per_hour: float
    bytes_per_s: float
    eta_s: float | None
    nodes: tuple[NodeStatus, ...]
    failures: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For programs. Times are seconds since 1970."""
        return asdict(self)


def read_status(out: Path | str) -> ArchiveStatus:
    """Of the archive in the folder ``out``, as of a second ago, or at an address in a store, as of
    half a minute ago.

    Raises OutputError where no archive was run.
    """
    if is_url(str(out)):
        folder = ObjectFolder(str(out))
        with state_copy(folder) as (layout, age_s):
            return _status(layout, lambda: _activity_there(folder, age_s))
    layout = ArchiveLayout(Path(out))
    return _status(layout, lambda: _activity(layout))


def _status(layout: ArchiveLayout, look: Callable[[], Activity]) -> ArchiveStatus:
    """``look`` tells what a run does that has not ended."""
    with _open(layout) as db:
        run = db.execute("SELECT * FROM run ORDER BY run DESC LIMIT 1").fetchone()
        if run is None:
            raise OutputError(f"no run was begun in {layout.out}; archive predict begins one")
        facts = json.loads(run["facts"])
        activity = look() if run["ended"] is None else "ended"
        counts = dict(db.execute("SELECT state, COUNT(*) FROM slide GROUP BY state").fetchall())
        cases = dict(
            db.execute("SELECT state, COUNT(*) FROM case_result GROUP BY state").fetchall()
        )
        total, done = db.execute(
            "SELECT COALESCE(SUM(bytes), 0), COALESCE(SUM(CASE WHEN state IN "
            "('done', 'skipped', 'failed') THEN bytes END), 0) FROM slide"
        ).fetchone()
        now = time.time() if run["ended"] is None else run["ended"]
        since = max(run["began"], now - RECENT_S)
        recent, recent_bytes = db.execute(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM slide WHERE run = ? AND ended > ? "
            "AND state IN ('done', 'failed')",
            (run["run"], since),
        ).fetchone()
        elapsed = max(now - since, 1e-3)
        return ArchiveStatus(
            kind=run["kind"],
            bundle=facts["bundle"],
            bundle_sha256=facts["bundle_sha256"],
            activity=activity,
            outcome=run["outcome"] or "",
            began=run["began"],
            ended=run["ended"],
            slides=counts,
            cases=cases,
            bytes_total=total,
            bytes_done=done,
            slides_per_hour=3600 * recent / elapsed,
            bytes_per_s=recent_bytes / elapsed,
            eta_s=_eta_s(counts, total - done, recent / elapsed, recent_bytes / elapsed),
            nodes=tuple(_nodes(db, run["run"])),
            failures=_failures(db),
        )


def read_events(out: Path | str) -> list[tuple[float, str]]:
    """The timeline of the last run, each (seconds since 1970, what). Raises OutputError."""
    if is_url(str(out)):
        with state_copy(ObjectFolder(str(out))) as (layout, _):
            return read_events(layout.out)
    with _open(ArchiveLayout(Path(out))) as db:
        rows = db.execute(
            "SELECT at, what FROM event WHERE run = (SELECT MAX(run) FROM run) ORDER BY at LIMIT ?",
            (MAX_EVENTS,),
        )
        return [(row["at"], row["what"]) for row in rows]


def read_tiles(out: Path) -> dict[str, int]:
    """Tiles by slide, as far as the state of the archive in ``out`` knows them; empty where there
    is none. Raises OutputError."""
    layout = ArchiveLayout(out)
    if not layout.state.is_file():
        return {}
    with _open(layout) as db:
        rows = db.execute("SELECT slide, tiles FROM slide WHERE tiles IS NOT NULL")
        return {row["slide"]: row["tiles"] for row in rows}


@contextmanager
def _open(layout: ArchiveLayout) -> Iterator[sqlite3.Connection]:
    if not layout.state.is_file():
        raise OutputError(f"{layout.out} is no archive's folder; give the --out of its run")
    try:
        db = sqlite3.connect(f"{layout.state.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise OutputError(f"{layout.state} is of another version of pathgene-rt; update")
            db.row_factory = sqlite3.Row
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise OutputError(f"cannot read {layout.state}: {error}; try again") from error


def _activity_there(folder: ObjectFolder, age_s: float) -> Activity:
    """Of a run whose state was copied to the store so long ago."""
    if age_s > GONE_S:
        return "stopped"
    return "paused" if StoredResults(folder, Path()).paused() else "running"


def _activity(layout: ArchiveLayout) -> Activity:
    path = layout.state.with_name(f".{beside(layout.state.name)}.lock")
    try:
        lock = try_acquire(path) if path.exists() else None
    except OSError:  # the disk has no locks, or this user may not: then the file says what is known
        return "paused" if layout.pause.exists() else "running"
    if lock is None and path.exists():
        return "paused" if layout.pause.exists() else "running"
    if lock is not None:
        lock.release()
    return "stopped"


def _eta_s(
    counts: dict[str, int], bytes_left: int, per_s: float, bytes_per_s: float
) -> float | None:
    left = counts.get("waiting", 0) + counts.get("running", 0)
    if not left:
        return 0.0
    if bytes_left and bytes_per_s:
        return bytes_left / bytes_per_s
    return left / per_s if per_s else None


def _nodes(db: sqlite3.Connection, run: int) -> Iterator[NodeStatus]:
    rows = db.execute(
        "SELECT node, SUM(ended IS NULL) AS workers, SUM(ended IS NOT NULL) AS died, "
        "COALESCE(SUM(slides), 0) AS slides, COALESCE(SUM(tiles), 0) AS tiles, "
        "COALESCE(SUM(seconds), 0) AS seconds FROM worker LEFT JOIN ("
        "SELECT worker AS own, COUNT(*) AS slides, SUM(tiles) AS tiles, SUM(seconds) AS seconds "
        "FROM slide WHERE run = ? AND state IN ('done', 'failed') GROUP BY worker"
        ") ON own = worker.worker WHERE run = ? GROUP BY node ORDER BY node",
        (run, run),
    )
    for row in rows:
        yield NodeStatus(**{name: row[name] for name in row.keys()})  # noqa: SIM118 - of sqlite3


def _failures(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    rows = db.execute(
        "SELECT kind, COUNT(*) AS count, MIN(slide) AS example, message FROM slide "
        "WHERE state = 'failed' GROUP BY kind ORDER BY count DESC"
    )
    return {
        row["kind"]: {name: row[name] for name in ("count", "example", "message")} for row in rows
    }
