"""``pathgene-rt view``: results and slides in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console, QuietOption


def view(
    predictions: Annotated[
        Path, typer.Argument(help="The folder that predict wrote to.", show_default=False)
    ],
    slides: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of the slides; give it again for another.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Listen to other machines too; needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(help='What every request must bring; "new" makes one.', show_default=False),
    ] = None,
    language: Annotated[
        str, typer.Option(help="en or zh; else what the browser prefers.", show_default=False)
    ] = "",
    browser: Annotated[
        bool, typer.Option("--open", help="Open the page in this machine's browser.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Show results, and slides with the answer on them, in the browser.

    Needs no network. Only this machine can open the page, unless --host is given. Ends with Ctrl-C.
    """
    from pathgene_rt.view.server import ViewOptions, serve

    console = Console(quiet=quiet)

    def ready(address: str) -> None:
        console.say(f"{address}\nCtrl-C ends.")
        if browser:
            import webbrowser

            webbrowser.open(address)

    options = ViewOptions(port=port, host=host, token=token, language=language)
    serve(predictions, slides or (), options, ready=ready)
