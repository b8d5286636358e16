"""What a batch of slides and cases prints: progress, then a table of what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from pathgene_rt.cli.console import Console, ItemProgress
from pathgene_rt.errors import BatchError, PathGeneError

if TYPE_CHECKING:
    from pathgene_rt.batch import Outcome

Row = dict[str, Any]
Kind = Literal["slide", "case"]


@dataclass(frozen=True)
class Ended:
    """A slide or case that was done, with its ``row``; skipped; or failed of ``error``."""

    name: str
    outcome: Outcome
    row: Row = field(default_factory=dict)
    error: PathGeneError | None = None


class Batch:
    """Slides, then perhaps cases. Left, also by an error, it prints what became of each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[Kind, list[Row]] = {}
        self._columns: dict[Kind, Sequence[str]] = {}
        self._failures: dict[Kind, list[PathGeneError]] = {}
        self._counts: dict[Kind, int] = {}
        self._progress: ItemProgress | None = None

    def tiles(self, name: str, done: int, total: int | None) -> None:
        """A :data:`~pathgene_rt.batch.BatchProgress`."""
        if self._progress is not None:
            self._progress.tiles(name, done, total)

    def follow(
        self, kind: Kind, total: int, ended: Iterable[Ended], *, columns: Sequence[str]
    ) -> None:
        """Take ``total`` items as they end; ``columns`` are the keys of rows that the table has."""
        rows = self._rows[kind] = []
        failures = self._failures[kind] = []
        self._columns[kind] = columns
        self._counts[kind] = total
        with self._console.items(total, f"{kind}s") as self._progress:
            for one in ended:
                row: Row = {kind: one.name, "status": one.outcome, **one.row}
                if one.outcome == "skipped":
                    row["status"] = "skipped, already done"
                if one.error is not None:
                    failures.append(one.error)
                    row |= {"reason": str(one.error), "exit_code": one.error.exit_code}
                rows.append(row)
                self._progress.ended(one.name, row["status"])

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
