"""How `archive status` reads to a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathgene_rt.archive.status import ArchiveStatus
    from pathgene_rt.cli.console import Console

_STATES = ("done", "skipped", "failed", "running", "waiting")


def show_status(
    status: ArchiveStatus, events: Sequence[tuple[float, str]], console: Console
) -> None:
    """Counts, rate and time left, then machines and failures, then the timeline."""
    words = status.outcome if status.activity == "ended" else status.activity
    console.say(f"{status.kind} with {status.bundle}: {words}, begun {_clock(status.began)}")
    for what, counts in (("slides", status.slides), ("cases", status.cases)):
        if counts:
            told = ", ".join(f"{counts[one]} {one}" for one in _STATES if counts.get(one))
            console.say(f"{what}: {sum(counts.values())} ({told})")
    console.say(f"bytes: {size_text(status.bytes_done)} of {size_text(status.bytes_total)}")
    if status.activity in ("running", "paused"):
        left = "not known yet" if status.eta_s is None else time_text(status.eta_s)
        rate = f"{status.slides_per_hour:.0f} slides an hour, {size_text(status.bytes_per_s)}/s"
        console.say(f"rate: {rate}; time left: {left}")
    rows = [
        [one.node, str(one.workers), str(one.died), str(one.slides), str(one.tiles)]
        for one in status.nodes
    ]
    if rows:
        console.table("", ["node", "workers", "ended workers", "slides", "tiles"], rows)
    failures = [
        [kind, str(one["count"]), str(one["example"]), str(one["message"])]
        for kind, one in status.failures.items()
    ]
    if failures:
        console.table("", ["failure", "slides", "example", "reason"], failures)
    for at, what in events:
        console.say(f"{_clock(at)}  {what}")


def time_text(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).isoformat(sep=" ", timespec="seconds")


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
