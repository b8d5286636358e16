"""``pathgene-rt predict``: slides in, reports out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pathgene_rt.cli.budget import BudgetOption, UntilStableOption, read_budget
from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    CoordsOption,
    EngineOption,
    ExactOption,
    IoTimeoutOption,
    MppOption,
    MppOverrideOption,
    OverwriteOption,
    PrecisionOption,
    ReadersOption,
    SlidesArgument,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, Progress, QuietOption
from pathgene_rt.errors import UsageError
from pathgene_rt.options import IO_TIMEOUT_S, Language


def predict(
    slides: SlidesArgument,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results go to OUT/<slide>/.")] = Path(
        "predictions"
    ),
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    coords: CoordsOption = None,
    cases: Annotated[
        Path | None,
        typer.Option(help="CSV (slide,case): also predict each case, to OUT/cases/<case>/."),
    ] = None,
    features: Annotated[
        bool,
        typer.Option("--features", help="Also keep the features (HDF5); --cases does for cases."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with features that a killed run had written."),
    ] = False,
    heatmaps: Annotated[bool, typer.Option(help="Draw a heatmap per head.")] = True,
    geojson: Annotated[bool, typer.Option(help="Write the tiles for QuPath.")] = True,
    html: Annotated[bool, typer.Option(help="Write report.html, to read and print.")] = True,
    language: Annotated[
        str, typer.Option(help="In which report.html opens: en or zh; it holds both.")
    ] = "en",
    budget: BudgetOption = None,
    until_stable: UntilStableOption = None,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", help="Replace slide names in all results by hashes.")
    ] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    exact: ExactOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict each slide; write report.json, heatmaps and GeoJSON to OUT/<slide>/.

    Slides that have a report of this bundle are skipped unless --overwrite. A bad slide does not
    stop the others (exit code 7 then), but its case gets no prediction.
    """
    from pathgene_rt.cases.table import Case, CaseTable, read_cases
    from pathgene_rt.cli.case_batch import COLUMNS as CASE_COLUMNS
    from pathgene_rt.cli.case_batch import CaseBatch
    from pathgene_rt.cli.prediction_table import show_report
    from pathgene_rt.cli.slide_batch import Batch
    from pathgene_rt.extraction.prepare import pseudonym
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.report.stored import is_complete_report
    from pathgene_rt.slides.find import find_slides
    from pathgene_rt.tiles.external_coords import check_coords

    console = Console(json=json, quiet=quiet)
    limits = read_budget(budget, until_stable)
    if limits.limited and cases is not None:
        raise UsageError("--cases needs whole slides; leave out --budget and --until-stable")
    found = find_slides(slides)
    check_coords(coords, len(found))
    table = read_cases(cases, found) if cases is not None else CaseTable((), ())
    for note in table.notes:
        console.warn(note)
    options = PredictOptions(
        mpp=mpp,
        mpp_override=mpp_override,
        coords=coords,
        readers=readers,
        io_timeout_s=io_timeout,
        exact=exact,
        heatmaps=heatmaps,
        geojson=geojson,
        html=html,
        language=cast(Language, language),
        features=features,
        resume=resume,
        budget=limits,
        anonymize=anonymize,
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    folder = writable_folder(out)
    with console.steps() as step:
        opened = Predictor.open(find_bundle(bundle), engines, progress=step)
    with opened as predictor:
        for note in predictor.notes:
            console.note(note)

        def place(slide: Path) -> Path:
            return folder / pseudonym(slide.stem, anonymize=anonymize)

        def case_place(case: Case) -> Path:
            return folder / "cases" / pseudonym(case.case_id, anonymize=anonymize)

        case_batch = CaseBatch(
            table.cases,
            predictor,
            console,
            slide_folder=place,
            case_folder=case_place,
            overwrite=overwrite,
        )

        def done(slide: Path) -> bool:
            complete = partial(
                is_complete_report,
                place(slide),
                predictor.bundle.sha256,
                partial=options.budget.limited,
            )
            if overwrite or not complete():
                return False
            if complete(features=features or slide in case_batch.needed):
                return True
            console.note(f"{slide.name}: done before without features; encoding it again for them")
            return False

        def one(slide: Path, progress: Progress) -> dict[str, Any]:
            chosen = replace(options, features=features or slide in case_batch.needed)
            report = predictor.predict(slide, chosen, out=place(slide), progress=progress.update)
            show_report(report, console)
            return {
                "tiles": report.provenance.tiles,
                "tiles_per_second": round(report.provenance.tiles_per_second, 1),
                "report": str(place(slide) / "report.json"),
                "predictions": [prediction.to_dict() for prediction in report.predictions],
            }

        with Batch(console) as items:
            columns = ("tiles", "tiles_per_second", "report")
            failed = items.run("slide", found, lambda slide: slide.name, one, done, columns=columns)
            if table.cases:
                items.run(
                    "case",
                    table.cases,
                    lambda case: case.case_id,
                    lambda case, _: case_batch.predict(case, failed),
                    case_batch.done,
                    columns=CASE_COLUMNS,
                )
        items.raise_failures()
        console.say(predictor.bundle.manifest.intended_use)
