"""``pathgene-rt capi``: the C library for hosts that embed the runtime."""

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
    """Put libpathgene_rt.so for this Python environment into OUT, with its header.

    It is compiled; without a compiler it is that of the installed wheel pathgene-rt-capi.
    """
    from pathgene_rt.capi.ready_made import provide_library

    console = Console(json=json, quiet=quiet)
    built = provide_library(out)
    console.say(f"library, {'compiled' if built.compiled else 'ready-made'}: {built.library}")
    console.say(f"header: {built.header}")
    console.say(f"environment, for pgrt_init or PGRT_HOME: {built.home}")
    console.emit(
        {
            "library": str(built.library),
            "header": str(built.header),
            "home": str(built.home),
            "compiled": built.compiled,
        }
    )


@capi.command()
def wheel(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the wheel.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compile the library into a wheel, pathgene-rt-capi, for machines without a compiler."""
    from pathgene_rt.capi.ready_made import write_wheel

    console = Console(json=json, quiet=quiet)
    written = write_wheel(out)
    console.say(f"wheel: {written}")
    console.emit({"wheel": str(written)})
