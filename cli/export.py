"""``pathgene-rt export``: checkpoints become one bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathgene_rt.cli.choices import OverwriteOption
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.errors import UsageError

if TYPE_CHECKING:
    from pathgene_rt.export.check import Comparison
    from pathgene_rt.export.export_bundle import ExportReport


def export(
    config: Annotated[
        Path | None, typer.Argument(help="A panel in TOML; options below win over it.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="A CTransPath checkpoint, or a bundle whose encoder to take over."),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="A head, once for each: PATH or NAME=PATH of a checkpoint of `train`, "
            "NAME=ARCHITECTURE:PATH of an original repository's, or NAME=wsinfer_mil:FOLDER."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KIND or NAME=KIND:GENE of a head, e.g. tp53=mutation:TP53."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="NAME=A,B,... of a head, in the order of its logits."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle, NAME.pgrt.")] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; else that of --out.")] = None,
    version: Annotated[str | None, typer.Option(help="The bundle's version; else 1.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under what the weights may be used.")] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option(help="A slide to take golden tiles from, repeatable; else generated tissue."),
    ] = None,
    directory: Annotated[
        bool, typer.Option("--directory", help="Write a folder instead of one file.")
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export an encoder and its heads, compare them with torch, and write one bundle."""
    from pathgene_rt.cli.head_options import described_heads, head_request
    from pathgene_rt.export.config import ExportConfig, load_config
    from pathgene_rt.export.export_bundle import export_bundle
    from pathgene_rt.export.request import ExportRequest
    from pathgene_rt.export.requirements import require_export

    require_export()
    console = Console(json=json, quiet=quiet)
    panel = load_config(config) if config else ExportConfig()
    encoder, out = encoder or panel.encoder, out or panel.out
    if encoder is None or out is None:
        missing = "--encoder" if encoder is None else "--out"
        raise UsageError(f"{missing} is missing; give it, or write it into the TOML file")
    request = ExportRequest(
        encoder=encoder,
        out=out,
        heads=described_heads(
            (*panel.head, *(head_request(text) for text in head or ())), task or (), classes or ()
        ),
        name=name or panel.name,
        version=version or panel.version,
        licence=licence or panel.licence,
        intended_use=panel.intended_use,
        preprocess=panel.preprocess,
        golden=tuple(golden or panel.golden),
        directory=directory or panel.directory,
        overwrite=overwrite,
    )
    report = export_bundle(request, console.note)
    for warning in report.warnings:
        console.warn(warning)
    _print(report, console)


def _print(report: ExportReport, console: Console) -> None:
    outputs: dict[tuple[str, str], list[Comparison]] = {}
    for item in report.comparisons:
        outputs.setdefault((item.model, item.output), []).append(item)
    rows = []
    for (model, output), items in outputs.items():
        worst = max(items, key=lambda item: item.difference)
        sizes = ", ".join(str(item.n) for item in items)
        difference = f"{worst.difference:.1e}"
        rows.append([model, output, sizes, worst.measure, difference, f"{worst.limit:.0e}"])
    columns = ("graph", "output", "tiles", "largest difference of", "is", "limit")
    console.table("Graphs against torch float32", columns, rows)
    console.say(
        f"{report.path}: {report.size / 1e6:.1f} MB, encoder {report.encoder_sha256[:12]}, "
        f"heads: {', '.join(report.heads) or 'none'}; {report.seconds:.0f} s"
    )
    console.emit({**asdict(report), "path": str(report.path)})
