"""``pathgene-rt audit``: whether an audit trail is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption

AuditOption = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        help="NAME.jsonl that gets a line for every report before it counts; see `audit verify`.",
        show_default=False,
    ),
]

audit = typer.Typer(
    name="audit",
    help="The audit trail of predictions: who made which with what, in lines that hold each other.",
    no_args_is_help=True,
)


@audit.command()
def verify(
    trail: Annotated[
        Path, typer.Argument(help="A trail NAME.jsonl, or a folder of them.", show_default=False)
    ],
    anchor: Annotated[
        str,
        typer.Option(
            metavar="HASH",
            help="Of a line, noted elsewhere: it must still be there.",
            show_default=False,
        ),
    ] = "",
    after: Annotated[
        str,
        typer.Option(
            metavar="HASH",
            help="What the first line goes on from, where older files were taken away.",
            show_default=False,
        ),
    ] = "",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find whatever was removed, changed or reordered; exit code 6 if anything was.

    It prints the hash of the last line: noted elsewhere, it also shows later whether someone made
    the whole trail anew.
    """
    from pathgene_rt.audit.verify import verify_trails

    console = Console(json=json, quiet=quiet)
    found = verify_trails(trail, anchor=anchor, after=after)
    console.emit(
        {
            "trails": [
                {
                    "trail": str(one.trail),
                    "files": [str(file) for file in one.files],
                    "first": one.first,
                    "lines": one.lines,
                    "sha256": one.sha256,
                    "note": one.note,
                }
                for one in found
            ]
        }
    )
    for one in found:
        console.say(f"{one.trail}: {one.lines} lines, whole; the last is {one.sha256}")
        if one.note:
            console.warn(f"{one.trail}: {one.note}")
