"""Many slides, one command: go on past a bad one, skip what is done, sum up at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pathgene_rt.cli.console import Console, Progress
from pathgene_rt.errors import BatchError, EngineError, PathGeneError, SlideError

Row = dict[str, Any]
Item = TypeVar("Item")


def run_batch(
    slides: Sequence[Path],
    one: Callable[[Path, Progress], Row],
    done: Callable[[Path], bool],
    console: Console,
    *,
    columns: Sequence[str],
) -> None:
    """A :class:`Batch` of nothing but slides."""
    with Batch(console) as batch:
        batch.run("slide", slides, lambda slide: slide.name, one, done, columns=columns)
    batch.raise_failures()


class Batch:
    """Slides, then perhaps cases. Left, also by an error, it prints what became of each.

    A failing item (SlideError or BatchError, or an EngineError while it ran) does not stop the
    others; any other error does, after the summary.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, list[Row]] = {}
        self._columns: dict[str, Sequence[str]] = {}
        self._failures: dict[str, list[PathGeneError]] = {}
        self._counts: dict[str, int] = {}

    def run(
        self,
        kind: str,
        items: Sequence[Item],
        name: Callable[[Item], str],
        one: Callable[[Item, Progress], Row],
        done: Callable[[Item], bool],
        *,
        columns: Sequence[str],
    ) -> frozenset[str]:
        """Run ``one`` on each item that is not ``done``; the names of those that failed.

        ``kind`` is "slide" or "case", ``columns`` are the keys of the rows that the table shows.
        """
        rows = self._rows[kind] = []
        failures = self._failures[kind] = []
        self._columns[kind] = columns
        self._counts[kind] = len(items)
        with self._console.items(len(items), f"{kind}s") as progress:
            for item in items:
                row: Row = {kind: name(item)}
                if done(item):
                    row["status"] = "skipped, already done"
                else:
                    try:
                        with progress.item(name(item)) as tiles:
                            row |= {"status": "done", **one(item, tiles)}
                    except (SlideError, EngineError, BatchError) as error:
                        failures.append(error)
                        row |= {"status": "failed", "reason": str(error)}
                        row["exit_code"] = error.exit_code
                rows.append(row)
                progress.ended(row[kind], row["status"])
        return frozenset(row[kind] for row in rows if row["status"] == "failed")

    def raise_failures(self) -> None:
        """Raise a single item's error as it is, BatchError (exit 7) if some of several failed."""
        failures = [error for kind in self._failures.values() for error in kind]
        if failures and sum(self._counts.values()) == 1:
            raise failures[0]
        if failures:
            failed = " and ".join(
                f"{len(errors)} of {self._counts[kind]} {kind}s"
                for kind, errors in self._failures.items()
                if errors
            )
            raise BatchError(f"{failed} failed; the reasons are above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._console.emit({f"{kind}s": rows for kind, rows in self._rows.items()})
        for kind, rows in self._rows.items():
            if any(row["status"] != "failed" for row in rows):
                shown = (kind, "status", *self._columns[kind])
                cells = [[str(row.get(column, "")) for column in shown] for row in rows]
                self._console.table("", [column.replace("_", " ") for column in shown], cells)
        if sum(self._counts.values()) > 1:
            for kind, rows in self._rows.items():
                for row in rows:
                    if row["status"] == "failed":
                        self._console.warn(f"{row[kind]}: {row['reason']}")
