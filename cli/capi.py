"""``pathgene-rt capi build``: the C library for hosts that embed the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption

capi = typer.Typer(name="capi", no_args_is_help=True)


@capi.callback()
def _group() -> None:
    """The C library for scanner software."""


@capi.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of library and header.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compile libpathgene_rt.so for this Python environment into OUT, with its header."""
    from pathgene_rt.capi.library import build_library

    console = Console(json=json, quiet=quiet)
    built = build_library(out)
    console.say(f"library: {built.library}")
    console.say(f"header: {built.header}")
    console.say(f"environment, for pgrt_init or PGRT_HOME: {built.home}")
    console.emit(
        {"library": str(built.library), "header": str(built.header), "home": str(built.home)}
    )
