"""``pathgene-rt predict``: slides in, reports out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    CoordsOption,
    EngineOption,
    MppOption,
    OverwriteOption,
    PrecisionOption,
    ReadersOption,
    SlidesArgument,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, Progress, QuietOption


def predict(
    slides: SlidesArgument,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results go to OUT/<slide>/.")] = Path(
        "predictions"
    ),
    mpp: MppOption = None,
    coords: CoordsOption = None,
    features: Annotated[
        bool, typer.Option("--features", help="Also keep the features (HDF5).")
    ] = False,
    heatmaps: Annotated[bool, typer.Option(help="Draw a heatmap per head.")] = True,
    geojson: Annotated[bool, typer.Option(help="Write the tiles for QuPath.")] = True,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", help="Replace slide names in all results by hashes.")
    ] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 16,
    readers: ReadersOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict each slide; write report.json, heatmaps and GeoJSON to OUT/<slide>/.

    Slides that have a report of this bundle are skipped unless --overwrite. A bad slide does not
    stop the others (exit code 7 then).
    """
    from pathgene_rt.cli.slide_batch import run_batch
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.predictor import Predictor, public_id
    from pathgene_rt.report_files import is_complete_report
    from pathgene_rt.slides.find import find_slides

    console = Console(json=json, quiet=quiet)
    found = find_slides(slides)
    options = PredictOptions(
        mpp=mpp,
        coords=coords,
        readers=readers,
        heatmaps=heatmaps,
        geojson=geojson,
        features=features,
        anonymize=anonymize,
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    folder = writable_folder(out)
    with Predictor.open(find_bundle(bundle), engines) as predictor:
        for note in predictor.notes:
            console.note(note)

        def place(slide: Path) -> Path:
            return folder / public_id(slide.stem, anonymize=anonymize)

        def done(slide: Path) -> bool:
            return not overwrite and is_complete_report(place(slide), predictor.bundle.sha256)

        def one(slide: Path, progress: Progress) -> dict[str, Any]:
            report = predictor.predict(slide, options, out=place(slide), progress=progress.update)
            _show(report, console)
            return {
                "tiles": report.provenance.tiles,
                "tiles_per_second": round(report.provenance.tiles_per_second, 1),
                "report": str(place(slide) / "report.json"),
                "predictions": [prediction.to_dict() for prediction in report.predictions],
            }

        run_batch(found, one, done, console, columns=("tiles", "tiles_per_second", "report"))
        console.say(predictor.bundle.manifest.intended_use)


def _show(report: Any, console: Console) -> None:
    """The predictions of one slide as a table."""
    rows = []
    for prediction in report.predictions:
        chances = ", ".join(
            f"{name} {chance:.3f}"
            for name, chance in zip(prediction.classes, prediction.probabilities, strict=True)
        )
        about = prediction.gene or prediction.kind
        rows.append([prediction.head, about, prediction.call, chances])
    console.table(report.slide_id, ["head", "gene", "call", "probabilities"], rows)
    for warning in report.warnings:
        console.warn(warning)
