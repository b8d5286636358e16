"""``pathgene-rt export``: weights become one bundle."""

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
    from pathgene_rt.export.config import ExportConfig
    from pathgene_rt.export.export_bundle import ExportReport
    from pathgene_rt.export.request import OnnxEncoder


def export(
    config: Annotated[
        Path | None, typer.Argument(help="A panel in TOML; options below win over it.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="A CTransPath checkpoint, or a bundle whose encoder to take over."),
    ] = None,
    encoder_onnx: Annotated[
        Path | None,
        typer.Option(help="Instead: the ONNX file of another encoder, float images to features."),
    ] = None,
    preprocess: Annotated[
        Path | None,
        typer.Option(help="A TOML file: what the encoder of --encoder-onnx was trained on."),
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
    float16: Annotated[
        bool | None,
        typer.Option(
            "--float16/--no-float16",
            help="Also export graphs in half precision, which GPUs run; by default, yes.",
            show_default=False,
        ),
    ] = None,
    check_tensorrt: Annotated[
        bool | None,
        typer.Option(
            "--check-tensorrt/--no-check-tensorrt",
            help="Build every graph with TensorRT for RTX (no GPU needed) and say for which cards "
            "it builds; by default, where that is installed.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export an encoder and its heads, compare them with what they came from, write one bundle."""
    from pathgene_rt.cli.head_options import described_heads, head_request
    from pathgene_rt.export.config import ExportConfig, load_config
    from pathgene_rt.export.export_bundle import export_bundle
    from pathgene_rt.export.request import ExportRequest
    from pathgene_rt.export.requirements import require_export

    require_export()
    console = Console(json=json, quiet=quiet)
    panel = load_config(config) if config else ExportConfig()
    chosen, out = _chosen_encoder(encoder, encoder_onnx, preprocess, panel), out or panel.out
    if out is None:
        raise UsageError("--out is missing; give it, or write it into the TOML file")
    request = ExportRequest(
        encoder=chosen,
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
        float16=panel.float16 if float16 is None else float16,
        check_tensorrt=panel.check_tensorrt if check_tensorrt is None else check_tensorrt,
        adequacy=panel.adequacy,
        domain=panel.domain,
        panel=panel.panel,
        quality=panel.quality,
        overwrite=overwrite,
    )
    report = export_bundle(request, console.note)
    for warning in report.warnings:
        console.warn(warning)
    _print(report, console)


def _chosen_encoder(
    encoder: Path | None, model: Path | None, spec: Path | None, panel: ExportConfig
) -> Path | OnnxEncoder:
    """That of the command line, else of the panel."""
    from pathgene_rt.export.encoder_spec import load_encoder_spec
    from pathgene_rt.export.request import OnnxEncoder

    if encoder is None and model is None and spec is None:
        encoder, onnx = panel.encoder, panel.encoder_onnx
        model, spec = (onnx.path, onnx.preprocess) if onnx else (None, None)
    if encoder is not None and model is not None:
        raise UsageError(f"{encoder} and {model} are two encoders; give one")
    if encoder is not None and spec is None:
        return encoder
    if model is not None and spec is not None:
        return OnnxEncoder(model, load_encoder_spec(spec))
    if model is not None:
        raise UsageError(
            f"--encoder-onnx {model} needs --preprocess FILE.toml, which says what the encoder was "
            "trained on"
        )
    if spec is not None:
        raise UsageError(f"--preprocess {spec} describes an --encoder-onnx; give that too")
    raise UsageError("--encoder is missing; give it, or write it into the TOML file")


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
    console.table("Graphs against the originals in float32", columns, rows)
    _print_float16(report, console)
    _print_compiled(report, console)
    console.say(
        f"{report.path}: {report.size / 1e6:.1f} MB, encoder {report.encoder_sha256[:12]}, "
        f"heads: {', '.join(report.heads) or 'none'}; {report.seconds:.0f} s"
    )
    console.emit({**asdict(report), "path": str(report.path)})


def _print_compiled(report: ExportReport, console: Console) -> None:
    rows = [
        [
            graph.model,
            ", ".join(graph.spec.builds) or "none",
            f"{graph.engine_bytes / 1e6:.1f} MB" if graph.engine_bytes else "-",
            f"{graph.cpu_s:.0f} s",
        ]
        for graph in report.compiled
    ]
    if rows:
        compiler = report.compiled[0].spec.compiler
        columns = ("graph", "builds for compute capability", "engine", "CPU time")
        console.table(f"Graphs in {compiler}", columns, rows)


def _print_float16(report: ExportReport, console: Console) -> None:
    rows = [
        [
            half.model,
            f"{len(half.kept)} of {half.nodes}",
            ", ".join(f"{measure} {error:.1e}" for measure, error in half.errors.items()),
            ", ".join(f"{node} {error:.0e}" for node, error in half.costliest),
        ]
        for half in report.float16
        if not half.refused
    ]
    if rows:
        columns = ("graph", "nodes in float32", "largest difference", "of the others lose most")
        console.table("Graphs in float16 against float32", columns, rows)
