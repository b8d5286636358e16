"""What the commands print, and where: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from pathgene_rt.cli.terminal import shown, shown_lines

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]


class Progress(Protocol):
    """A bar, or nothing where stderr is no terminal."""

    def update(self, done: int, total: int | None = None) -> None: ...


class Console:
    """One command's output. ``json`` reserves stdout for :meth:`emit`; ``quiet`` mutes the rest."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """A result for a person, on stdout."""
        if not self.json and not self.quiet:
            sys.stdout.write(shown_lines(text) + "\n")

    def note(self, text: str) -> None:
        """What is being done, on stderr, in one line."""
        if not self.quiet:
            sys.stderr.write(shown(text) + "\n")

    def warn(self, text: str) -> None:
        """What the user should know even when quiet, on stderr."""
        sys.stderr.write(f"warning: {shown(text)}\n")

    def emit(self, document: Any) -> None:
        """The machine-readable result, on stdout, if asked for."""
        if self.json:
            text = jsonlib.dumps(document, indent=2, ensure_ascii=False)
            try:
                text.encode(sys.stdout.encoding or "utf-8")
            except UnicodeEncodeError:
                text = jsonlib.dumps(document, indent=2)
            sys.stdout.write(text + "\n")

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
            table.add_row(*(Text(shown(cell)) for cell in row))
        # A pipe or a file has no width; tables must not be cut there.
        RichConsole(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)

    @contextmanager
    def progress(
        self, description: str, total: int | None = None, unit: str = "tiles"
    ) -> Iterator[Progress]:
        """A bar with rate and time left on stderr when that is a terminal, else nothing."""
        with self._bars() as bars:
            yield _Bar(bars, description, total, unit) if bars is not None else _NoProgress()

    @contextmanager
    def items(self, total: int, unit: str = "slides") -> Iterator[ItemProgress]:
        """Progress over ``total`` items and the tiles of each: two bars on stderr when that is a
        terminal, else a line an item. A single item has its tiles only."""
        with self._bars() as bars:
            yield ItemProgress(self, bars, total, unit)

    @contextmanager
    def steps(self) -> Iterator[Steps]:
        """Work in steps, of which some tell how much of them is done."""
        with self._bars() as bars:
            yield Steps(self, bars)

    @contextmanager
    def _bars(self) -> Iterator[RichProgress | None]:
        """An empty stack of bars, or None where they would not be seen."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        with RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=RichConsole(stderr=True),
            transient=True,
        ) as bars:
            yield bars


class _NoProgress:
    def update(self, done: int, total: int | None = None) -> None:
        pass


class _Bar:
    def __init__(self, bars: RichProgress, description: str, total: int | None, unit: str) -> None:
        self._bars = bars
        self._unit = unit
        self._task = bars.add_task(shown(description), total=total, rate="", unit=unit)

    def update(self, done: int, total: int | None = None) -> None:
        task = next(task for task in self._bars.tasks if task.id == self._task)
        rate = f"{task.speed:.0f} {self._unit}/s" if task.speed and task.speed >= 1 else ""
        self._bars.update(self._task, completed=done, total=total or task.total, rate=rate)

    def remove(self) -> None:
        self._bars.remove_task(self._task)


class Steps:
    """A line on stderr for each step, and a bar for what tells the share that is done."""

    def __init__(self, console: Console, bars: RichProgress | None) -> None:
        self._console = console
        self._bars = bars
        self._bar: _Bar | None = None
        self._words = ""

    def __call__(self, words: str, share: float | None = None) -> None:
        """``words`` are being done; ``share`` of it is, if that is known. Not from two threads at
        once."""
        if self._bar is not None and (share is None or words != self._words):
            self._bar.remove()
            self._bar = None
        if share is None:
            self._console.note(words)
        elif self._bars is not None:
            if self._bar is None:
                self._bar, self._words = _Bar(self._bars, words, 100, "%"), words
            self._bar.update(round(100 * share))


class ItemProgress:
    """Items one after the other, each with its tiles. See :meth:`Console.items`."""

    def __init__(self, console: Console, bars: RichProgress | None, total: int, unit: str) -> None:
        self._console = console
        self._bars = bars
        self._done, self._total = 0, total
        self._items: _Bar | None = None
        self._tiles: _Bar | None = None
        if bars is not None and total > 1:
            self._items = _Bar(bars, f"all {unit}", total, unit)

    def tiles(self, name: str, done: int, total: int | None) -> None:
        """Of the item ``name`` that is under way, ``done`` tiles of ``total`` are."""
        if self._bars is None:
            return
        if self._tiles is None:
            self._tiles = _Bar(self._bars, name, None, "tiles")
        self._tiles.update(done, total)

    def ended(self, name: str, status: str) -> None:
        """Count an item, begun or passed over."""
        if self._tiles is not None:
            self._tiles.remove()
            self._tiles = None
        self._done += 1
        if self._items is not None:
            self._items.update(self._done)
        elif self._bars is None and self._total > 1:
            self._console.note(f"{self._done}/{self._total} {name}: {status}")
