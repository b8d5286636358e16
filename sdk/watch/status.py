"""What watchers of a folder of results did and do, for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathgene_rt.errors import UsageError
from pathgene_rt.watch.ledger import LEDGER_FILE, Ledger, State


def watch_status(out: Path) -> dict[str, Any]:
    """What watchers of ``out`` did and do, as a JSON document. Raises UsageError if none ever
    wrote there."""
    if not (out / LEDGER_FILE).is_file():
        raise UsageError(f"{out} holds no {LEDGER_FILE}: nothing was ever watched into it")
    ledger = Ledger(out)

    def told(state: State) -> list[dict[str, Any]]:
        return [
            {
                "slide": one.slide_id,
                "file": one.file,
                "since": one.changed,
                "worker": one.worker,
                "tries": one.tries,
                "next_try": one.next_try or None,
                "reason": one.reason,
            }
            for one in ledger.in_state(state)
        ]

    return {
        "counts": ledger.counts(),
        "running": told("running"),
        "retry": told("retry"),
        "failed": told("failed"),
        "hooks_due": len(ledger.hooks_due(float("inf"))),
        "watchers": [
            {"worker": worker, "seen": seen, "doing": doing}
            for worker, seen, doing in ledger.watchers()
        ],
    }
