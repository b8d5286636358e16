"""``pathgene-rt doctor``: engines, devices, versions, what to install; acceptance on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.errors import UsageError


def doctor(
    gpu_acceptance: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="Try every GPU engine with this bundle: builds, compares, provokes, times; one "
            "report.",
        ),
    ] = None,
    acceptance_engines: Annotated[
        list[str] | None,
        typer.Option(help="Try these engines instead, also those of the CPU; once for each."),
    ] = None,
    slide: Annotated[
        Path | None,
        typer.Option(help="A small slide, which the CPU predicts, too; else one of golden tiles."),
    ] = None,
    qualification: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="One document for IQ and OQ: packages against recorded hashes, goldens, every "
            "engine.",
        ),
    ] = None,
    sbom: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write what is installed as CycloneDX 1.6 JSON (extra sbom)."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Whose models --sbom lists, too.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the documents; else acceptance/ or qualification/.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say which engines can run here, with what, and what is missing; and slide readers of others.

    With --gpu-acceptance or --qualification, prove on this machine that they are right: exit code 0
    if every check passed, 6 if one failed, 5 if no engine could be tried.
    """
    console = Console(json=json, quiet=quiet)
    if sum(one is not None for one in (gpu_acceptance, qualification, sbom)) > 1:
        raise UsageError("give one of --gpu-acceptance, --qualification and --sbom at a time")
    if bundle is not None and sbom is None:
        raise UsageError("--bundle belongs to --sbom FILE")
    if gpu_acceptance is not None:
        _accept(gpu_acceptance, out or Path("acceptance"), slide, acceptance_engines, console)
    elif qualification is not None:
        _qualify(qualification, out or Path("qualification"), slide, acceptance_engines, console)
    elif slide is not None or acceptance_engines:
        raise UsageError(
            "--slide and --acceptance-engines belong to --gpu-acceptance and --qualification"
        )
    elif sbom is not None:
        _list_materials(sbom, bundle, console)
    else:
        _diagnose(console)


def _qualify(
    bundle: Path, out: Path, slide: Path | None, engines: list[str] | None, console: Console
) -> None:
    from pathgene_rt.qualification.qualify import HTML_FILE, qualify

    found = qualify(bundle, out, slide=slide, engines=engines, progress=console.note)
    console.say(f"packages: {len(found.records)}, goldens: {len(found.operation.checks)}")
    console.say(f"engines: {found.acceptance.verdict}")
    console.say(f"document: {out / HTML_FILE}")
    console.emit(found.to_dict())
    found.require_passed()
    console.say("qualified")


def _list_materials(path: Path, bundle: Path | None, console: Console) -> None:
    from contextlib import nullcontext

    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.qualification.sbom import write_sbom

    with nullcontext() if bundle is None else Bundle.open(bundle) as opened:
        count = write_sbom(path, opened)
    console.emit({"sbom": str(path), "components": count})
    console.say(f"{path}: {count} components")


def _accept(
    bundle: Path, out: Path, slide: Path | None, engines: list[str] | None, console: Console
) -> None:
    from pathgene_rt.acceptance.acceptance import GPU_ENGINES, HTML_FILE, accept
    from pathgene_rt.acceptance.checks import CHECKS

    report = accept(
        bundle, out, slide=slide, engines=tuple(engines or GPU_ENGINES), progress=console.note
    )
    rows = []
    for name, results, why in report.by_target():
        if why:
            rows.append([name, f"all {len(results)}", "not run", why])
            continue
        for one in results:
            rows.append([name, one.check, report.WORDS[one.status], one.detail])
    console.table("", ["engine", "check", "", "found"], rows)
    if not report.count("passed") + report.count("failed"):
        console.say(f"it would run: {', '.join(CHECKS)}")
    if report.calls is not None:
        console.say(f"native functions called: {len(report.calls)}")
    console.say(f"report: {out / HTML_FILE}")
    console.emit(report.to_dict())
    report.require_passed()
    console.say(report.verdict)


def _diagnose(console: Console) -> None:
    from rich.filesize import decimal

    from pathgene_rt.engines.diagnosis import diagnose
    from pathgene_rt.options import NO_CACHE_FOLDER, default_cache_dir
    from pathgene_rt.slides.registry import plug_ins

    found = diagnose(default_cache_dir())
    bfloat16 = "yes" if found.bfloat16 else "no"
    console.say(found.system)
    console.say(f"{found.cpu}, {found.cpus} cpus, native bfloat16: {bfloat16}")
    console.say(f"instruction sets: {', '.join(found.cpu_features) or 'baseline only'}")
    rows = [
        [
            name,
            engine.version,
            ", ".join(engine.devices),
            ", ".join(engine.precisions),
            engine.reason or "ready",
        ]
        for name, engine in found.engines.items()
    ]
    console.table("Engines, preferred first", ["engine", "version", "device", "in", ""], rows)
    packages = [[name, version or "missing"] for name, version in found.packages.items()]
    console.table("Packages", ["package", "version"], packages)
    for extra in found.extras:
        if extra.missing:
            missing = ", ".join(extra.missing)
            console.say(f"for {extra.purpose}: {extra.install} (missing: {missing})")
    if (cache := found.cache) is not None:
        size = f"{decimal(cache.size_bytes)} of at most {decimal(cache.limit_bytes)}"
        kept = f"{cache.engines} engines, {size} (pathgene-rt engines list)"
        console.say(f"cache: {cache.path}: {cache.problem or kept}")
    else:
        console.say(f"cache: {NO_CACHE_FOLDER}")
    readers = plug_ins()  # which tells of those that cannot be loaded
    for reader in readers.readers:
        console.say(f"slide reader {reader.name}: {', '.join(sorted(reader.suffixes))}")
    others = {
        "readers": {reader.name: sorted(reader.suffixes) for reader in readers.readers},
        "not_loaded": list(readers.troubles),
    }
    console.emit({**found.to_dict(), "slide_readers": others})
    found.require_engine()
