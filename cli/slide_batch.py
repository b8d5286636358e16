"""Many slides, one command: go on past a bad one, skip what is done, sum up at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pathgene_rt.cli.console import Console, Progress
from pathgene_rt.errors import BatchError, EngineError, PathGeneError, SlideError

Row = dict[str, Any]


def run_batch(
    slides: Sequence[Path],
    one: Callable[[Path, Progress], Row],
    done: Callable[[Path], bool],
    console: Console,
    *,
    columns: Sequence[str],
) -> None:
    """Run ``one`` on each slide that is not ``done``; print the summary; raise if any failed.

    A failing slide (SlideError, or an EngineError while it ran) does not stop the others; any
    other error does, after the summary. A single slide's error is raised as it is, several slides
    with failures end in BatchError (exit 7).
    """
    rows: list[Row] = []
    failures: list[PathGeneError] = []
    try:
        for number, slide in enumerate(slides, 1):
            if done(slide):
                rows.append({"slide": slide.name, "status": "skipped, already done"})
                continue
            with console.progress(f"{slide.name} ({number}/{len(slides)})") as progress:
                try:
                    rows.append({"slide": slide.name, "status": "done", **one(slide, progress)})
                except (SlideError, EngineError) as error:
                    failures.append(error)
                    row = {"slide": slide.name, "status": "failed", "reason": str(error)}
                    rows.append({**row, "exit_code": error.exit_code})
    finally:
        _sum_up(rows, console, columns)
    if failures and len(slides) == 1:
        raise failures[0]
    if failures:
        raise BatchError(f"{len(failures)} of {len(slides)} slides failed; the reasons are above")


def _sum_up(rows: list[Row], console: Console, columns: Sequence[str]) -> None:
    console.emit({"slides": rows})
    if any(row["status"] != "failed" for row in rows):
        shown = ("slide", "status", *columns)
        cells = [[str(row.get(column, "")) for column in shown] for row in rows]
        console.table("", [column.replace("_", " ") for column in shown], cells)
    if len(rows) > 1:
        for row in rows:
            if row["status"] == "failed":
                console.warn(f"{row['slide']}: {row['reason']}")
