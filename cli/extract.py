"""``pathgene-rt extract``: features of slides, by the runtime that predicts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    CoordsOption,
    EngineOption,
    ExactOption,
    IoTimeoutOption,
    IsolateOption,
    MppOption,
    MppOverrideOption,
    OverwriteOption,
    PrecisionOption,
    PseudonymizeOption,
    PseudonymKeyOption,
    ReadersOption,
    RecursiveOption,
    SlidesArgument,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.pseudonymize import choose_pseudonyms, find_unnamed
from pathgene_rt.errors import PathGeneError
from pathgene_rt.options import IO_TIMEOUT_S


def extract(
    slides: SlidesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the HDF5 files.")],
    bundle: BundleOption = None,
    recursive: RecursiveOption = False,
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    coords: CoordsOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    isolate: IsolateOption = "auto",
    exact: ExactOption = False,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the encoder's features of each slide to OUT/<slide>.h5, as CLAM lays them out.

    Slides whose file is there, whole, of this encoder, this slide and these options, are skipped
    unless --overwrite, and a slide that was begun goes on at the tile it had come to: a run that
    was stopped or killed is continued by the same command. A bad slide does not stop the others.
    """
    from pathgene_rt.batch import attempt, keep_ids
    from pathgene_rt.cases.places import ResultPlaces
    from pathgene_rt.cli.slide_batch import Batch, Ended, Row
    from pathgene_rt.extraction.earlier import earlier_features, require_replaceable
    from pathgene_rt.extraction.result_identity import ResultIdentity
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.tiles.external_coords import check_coords

    console = Console(json=json, quiet=quiet)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    found = find_unnamed(slides, pseudonyms, console, recursive=recursive)
    check_coords(coords, len(found))
    options = PredictOptions(
        mpp=mpp,
        mpp_override=mpp_override,
        coords=coords,
        readers=readers,
        io_timeout_s=io_timeout,
        isolate=isolate,
        exact=exact,
        resume=not overwrite,
        pseudonyms=pseudonyms,
    )
    folder = writable_folder(out)
    places = ResultPlaces(folder, pseudonyms, keep_ids(found, folder, pseudonyms))
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with console.steps() as step:
        opened = Predictor.open(find_bundle(bundle), engines, progress=step)
    with opened as predictor:
        encoder = predictor.bundle.encoder.weights_sha256
        if not overwrite:
            require_replaceable([places.features_file(slide) for slide in found], encoder)

        def done(slide: Path) -> bool:
            if overwrite:
                return False
            earlier = earlier_features(
                places.features_file(slide),
                encoder,
                lambda: ResultIdentity.of(slide, options, precision),
            )
            if earlier.note:
                console.note(f"{places.slide_name(slide)}: {earlier.note}")
            return earlier.serves

        printed = Batch(console)

        def extracted(slide: Path) -> Row:
            features, name = places.features_file(slide), places.slide_name(slide)
            printed.tiles(name, 0, None)
            bag, stats = predictor.extract(
                slide,
                replace(options, slide_id=places.slide_id(slide)),
                out=features,
                progress=lambda done, total: printed.tiles(name, done, total),
                warn=lambda text: console.warn(f"{name}: {text}"),
            )
            return {
                "tiles": len(bag),
                "tiles_per_second": round(stats.tiles_per_second, 1),
                "features": str(features),
            }

        def one(slide: Path) -> Row | None:
            return None if done(slide) else extracted(slide)

        def ended(slide: Path) -> Ended:
            name = places.slide_name(slide)
            conceal = None if pseudonyms is None else partial(pseudonyms.conceal, slide=slide)
            row = attempt(lambda: one(slide), name, conceal)
            if isinstance(row, PathGeneError):
                return Ended(name, "failed", error=row)
            return Ended(name, "skipped") if row is None else Ended(name, "done", row)

        with printed:
            columns = ("tiles", "tiles_per_second", "features")
            printed.follow("slide", len(found), map(ended, found), columns=columns)
        printed.raise_failures()
