"""``pathgene-rt``: registers the commands. :mod:`~pathgene_rt.cli.entry` runs them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pathgene_rt.cli.archive import archive
from pathgene_rt.cli.audit import audit
from pathgene_rt.cli.build import build
from pathgene_rt.cli.capi import capi
from pathgene_rt.cli.demo import demo
from pathgene_rt.cli.dicomweb import dicomweb
from pathgene_rt.cli.doctor import doctor
from pathgene_rt.cli.engines import engines
from pathgene_rt.cli.export import export
from pathgene_rt.cli.extract import extract
from pathgene_rt.cli.inspect import inspect
from pathgene_rt.cli.monitor import monitor
from pathgene_rt.cli.predict import predict
from pathgene_rt.cli.sign import keygen, sign
from pathgene_rt.cli.simulate_scan import simulate_scan
from pathgene_rt.cli.site import site
from pathgene_rt.cli.train import train
from pathgene_rt.cli.verify import verify
from pathgene_rt.cli.view import view
from pathgene_rt.cli.watch import watch

app = typer.Typer(
    name="pathgene-rt",
    help="Deploys whole-slide pathology models: train, export, build, verify, predict.",
    epilog="Exit codes: 0 done, 1 a fault of pathgene-rt itself, 2 usage or output folder, 3 bad "
    "input slide, 4 bad bundle or checkpoint, 5 engine unavailable or failed, 6 verification "
    "failed, 7 some slides of a batch failed, 8 monitor alarms, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"pathgene-rt {version('pathgene-rt')}\n")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploys whole-slide pathology models: train, export, build, verify, predict."""


for command in (
    demo,
    train,
    extract,
    export,
    build,
    verify,
    predict,
    monitor,
    view,
    inspect,
    doctor,
):
    app.command()(command)
app.command()(dicomweb)
app.command("simulate-scan")(simulate_scan)
app.add_typer(archive)
app.add_typer(engines)
app.add_typer(audit)
app.command()(keygen)
app.command()(sign)
app.add_typer(watch)
app.add_typer(capi)
app.add_typer(site)
