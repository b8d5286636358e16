"""``pathgene-rt extract``: features of slides, by the runtime that predicts."""

from __future__ import annotations

from collections.abc import Sequence
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
    MppOption,
    MppOverrideOption,
    OverwriteOption,
    PrecisionOption,
    ReadersOption,
    SlidesArgument,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.errors import PathGeneError
from pathgene_rt.options import IO_TIMEOUT_S


def extract(
    slides: SlidesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the HDF5 files.")],
    bundle: BundleOption = None,
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    coords: CoordsOption = None,
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
    """Write the encoder's features of each slide to OUT/<slide>.h5, as CLAM lays them out.

    Slides whose file is there, whole and of this encoder, are skipped unless --overwrite, and a
    slide that was begun goes on at the tile it had come to: a run that was stopped or killed is
    continued by the same command. A bad slide does not stop the others.
    """
    from pathgene_rt.batch import attempt
    from pathgene_rt.cli.slide_batch import Batch, Ended, Row
    from pathgene_rt.features.hdf5 import is_complete_features
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.slides.find import find_slides
    from pathgene_rt.tiles.external_coords import check_coords

    console = Console(json=json, quiet=quiet)
    found = find_slides(slides)
    check_coords(coords, len(found))
    options = PredictOptions(
        mpp=mpp,
        mpp_override=mpp_override,
        coords=coords,
        readers=readers,
        io_timeout_s=io_timeout,
        exact=exact,
        resume=not overwrite,
    )
    folder = writable_folder(out)
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with console.steps() as step:
        opened = Predictor.open(find_bundle(bundle), engines, progress=step)
    with opened as predictor:
        encoder = predictor.bundle.encoder.weights_sha256
        if not overwrite:
            _refuse_foreign([folder / f"{slide.stem}.h5" for slide in found], encoder)

        def done(slide: Path) -> bool:
            return not overwrite and is_complete_features(folder / f"{slide.stem}.h5", encoder)

        printed = Batch(console)

        def extracted(slide: Path) -> Row:
            features = folder / f"{slide.stem}.h5"
            printed.tiles(slide.name, 0, None)
            bag, stats = predictor.extract(
                slide,
                options,
                out=features,
                progress=lambda done, total: printed.tiles(slide.name, done, total),
                warn=lambda text: console.warn(f"{slide.name}: {text}"),
            )
            return {
                "tiles": len(bag),
                "tiles_per_second": round(stats.tiles_per_second, 1),
                "features": str(features),
            }

        def ended(slide: Path) -> Ended:
            if done(slide):
                return Ended(slide.name, "skipped")
            row = attempt(lambda: extracted(slide), slide.name)
            if isinstance(row, PathGeneError):
                return Ended(slide.name, "failed", error=row)
            return Ended(slide.name, "done", row)

        with printed:
            columns = ("tiles", "tiles_per_second", "features")
            printed.follow("slide", len(found), map(ended, found), columns=columns)
        printed.raise_failures()


def _refuse_foreign(files: Sequence[Path], encoder_sha256: str) -> None:
    """Features that another encoder or tool wrote are no half-done work of ours."""
    from pathgene_rt.errors import FeatureFileError, OutputError
    from pathgene_rt.features.hdf5 import is_complete_features, read_features

    foreign = []
    for path in files:
        if not path.exists() or is_complete_features(path, encoder_sha256):
            continue
        try:
            read_features(path)
        except FeatureFileError:
            continue  # damaged, so nothing is lost by writing it again
        foreign.append(path)
    if foreign:
        raise OutputError(
            f"{len(foreign)} files are of another encoder or tool ({foreign[0]}); use --overwrite "
            "or another --out"
        )
