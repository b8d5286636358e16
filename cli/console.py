"""What the commands print, and where: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]


class Progress(Protocol):
    """A bar, or nothing where stderr is no terminal."""

    def update(self, done: int, total: int | None = None) -> None: ...


class _NoProgress:
    def update(self, done: int, total: int | None = None) -> None:
        pass


class Console:
    """One command's output. ``json`` reserves stdout for :meth:`emit`; ``quiet`` mutes the rest."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """A result for a person, on stdout."""
        if not self.json and not self.quiet:
            sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """What is being done, on stderr."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def warn(self, text: str) -> None:
        """What the user should know even when quiet, on stderr."""
        sys.stderr.write(f"warning: {text}\n")

    def emit(self, document: Any) -> None:
        """The machine-readable result, on stdout, if asked for."""
        if self.json:
            sys.stdout.write(jsonlib.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for a person, on stdout."""
        if self.json or self.quiet:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        # A pipe or a file has no width; tables must not be cut there.
        RichConsole(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)

    @contextmanager
    def progress(
        self, description: str, total: int | None = None, unit: str = "tiles"
    ) -> Iterator[Progress]:
        """A bar with rate and time left on stderr when that is a terminal, else nothing."""
        if self.quiet or not sys.stderr.isatty():
            yield _NoProgress()
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} " + unit),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task(description, total=total, rate="")

            class _Bar:
                def update(self, done: int, total: int | None = None) -> None:
                    speed = bar.tasks[0].speed
                    rate = f"{speed:.0f} {unit}/s" if speed else ""
                    bar.update(task, completed=done, total=total or bar.tasks[0].total, rate=rate)

            yield _Bar()
