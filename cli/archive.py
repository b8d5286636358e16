"""``pathgene-rt archive``: many thousand slides, on this machine or a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathgene_rt.cli.audit import AuditOption
from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    BundlesOption,
    EngineOption,
    ExactOption,
    GeojsonOption,
    HeatmapsOption,
    HtmlOption,
    IoTimeoutOption,
    IsolateOption,
    MppOption,
    MppOverrideOption,
    OverwriteOption,
    PrecisionOption,
    PseudonymizeOption,
    PseudonymKeyOption,
    ReadersOption,
    SiteOption,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.sign import SignatureOption
from pathgene_rt.options import IO_TIMEOUT_S

if TYPE_CHECKING:
    from pathgene_rt.archive.tasks import Kind

archive = typer.Typer(
    name="archive",
    help="Predict or encode an archive of slides on this machine or a Ray cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder with all in it, here or in a store (s3://bucket/2024), or a manifest (CSV "
        "or Parquet: slide, case, mpp, priority).",
        show_default=False,
    ),
]
FolderArgument = Annotated[
    str, typer.Argument(help="The --out of archive predict or extract.", show_default=False)
]
OutOption = Annotated[
    str,
    typer.Option(
        "--out", "-o", help="The archive's folder, or s3://bucket/results.", show_default=False
    ),
]
RayOption = Annotated[
    str,
    typer.Option(
        "--ray",
        help="A Ray cluster's head, HOST:6379, or auto on one of its nodes; else this machine.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int, typer.Option(help="Workers; 0: one a GPU, else as many as there are processors for.")
]
ThreadsOption = Annotated[int, typer.Option(help="Processors of each worker; 0 suits the machine.")]
RateOption = Annotated[
    str,
    typer.Option(
        help="Begin at most so many bytes of slides a second, e.g. 200MB: a store that others use.",
        show_default=False,
    ),
]
NiceOption = Annotated[
    int, typer.Option(min=0, max=19, help="Lower priority of the workers, as nice has it.")
]
StageOption = Annotated[
    str,
    typer.Option(
        help="Folder on each machine for slides of stores while they are read; else its temporary.",
        show_default=False,
    ),
]
RangesOption = Annotated[
    bool,
    typer.Option("--ranges", help="Fetch only what is read of slides in stores, where it can be."),
]
StageLimitOption = Annotated[str, typer.Option(help="What each worker may stage at a time.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say how much it is and, by a sample, how long.")
]


@archive.command()
def predict(
    source: SourceArgument,
    out: OutOption,
    bundle: BundleOption = None,
    ray: RayOption = "",
    workers: WorkersOption = 0,
    threads: ThreadsOption = 0,
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    features: Annotated[
        bool, typer.Option("--features", help="Also keep the features; slides of cases do.")
    ] = False,
    heatmaps: HeatmapsOption = True,
    geojson: GeojsonOption = True,
    html: HtmlOption = True,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    isolate: IsolateOption = "auto",
    exact: ExactOption = False,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    site: SiteOption = None,
    audit: AuditOption = None,
    require_signature: SignatureOption = None,
    max_rate: RateOption = "",
    nice: NiceOption = 0,
    stage: StageOption = "",
    stage_limit: StageLimitOption = "200GB",
    ranges: RangesOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict every slide of SOURCE to OUT/<slide>/, and every case of a manifest to OUT/cases/.

    Each slide gets one result, whatever dies; the same command goes on where it was stopped. A bad
    slide does not stop the others (exit code 7 then).
    """
    _run("predict", locals())


@archive.command()
def extract(
    source: SourceArgument,
    out: OutOption,
    bundle: BundlesOption = None,
    ray: RayOption = "",
    workers: WorkersOption = 0,
    threads: ThreadsOption = 0,
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    isolate: IsolateOption = "auto",
    exact: ExactOption = False,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    require_signature: SignatureOption = None,
    max_rate: RateOption = "",
    nice: NiceOption = 0,
    stage: StageOption = "",
    stage_limit: StageLimitOption = "200GB",
    ranges: RangesOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the encoder's features of every slide of SOURCE to OUT/<slide>.h5.

    Each slide gets one file, whatever dies; the same command goes on where it was stopped. With
    several bundles each has its own, OUT/<bundle>/<slide>.h5.
    """
    _run("extract", locals())


@archive.command()
def status(
    folder: FolderArgument,
    events: Annotated[
        bool, typer.Option("--events", help="Also the run's timeline: workers, deaths, pauses.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """How far the archive is: counts, rate, time left, machines, failures."""
    from pathgene_rt.archive.status import read_events, read_status
    from pathgene_rt.cli.archive_status import show_status

    console = Console(json=json, quiet=quiet)
    found = read_status(folder)
    timeline = read_events(folder) if events else []
    document = found.to_dict()
    if events:
        document["events"] = [{"at": at, "what": what} for at, what in timeline]
    console.emit(document)
    show_status(found, timeline, console)


@archive.command()
def collect(
    folder: FolderArgument,
    into: Annotated[
        Path | None, typer.Option(help="Folder of the tables; else that of the archive.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write predictions.parquet, a row a slide and head, and features.parquet, a row a file."""
    from pathgene_rt.archive.collect import collect as collect_tables
    from pathgene_rt.errors import BatchError

    console = Console(json=json, quiet=quiet)
    found = collect_tables(folder, into)
    console.emit(
        {
            "predictions": found.predictions,
            "slides": found.slides,
            "features": found.features,
            "unreadable": found.unreadable,
        }
    )
    for name, reason in found.unreadable.items():
        console.warn(f"{name}: {reason}")
    console.say(
        f"{found.predictions} predictions of {found.slides} slides, {found.features} features files"
    )
    if found.unreadable:
        raise BatchError(f"{len(found.unreadable)} results could not be read; they are left out")


@archive.command()
def fetch(
    url: Annotated[
        str,
        typer.Argument(help="The --out of an archive in a store.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to bring it to.", show_default=False)
    ],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring results from a store to a folder, where view, train and scripts find them."""
    from pathgene_rt.archive.fetch import fetch as fetch_results
    from pathgene_rt.archive.stores import is_url
    from pathgene_rt.errors import UsageError

    console = Console(json=json, quiet=quiet)
    if not is_url(url):
        raise UsageError(f"{url} is no address of a store; give e.g. s3://bucket/results")
    new: list[str] = []

    def told(key: str, outcome: str) -> None:
        if outcome == "done":
            new.append(key)
            console.note(key)

    count = fetch_results(url, out, told)
    console.emit({"results": count, "new": new})
    console.say(f"{len(new)} results brought to {out}, of {count}")


@archive.command()
def pause(folder: FolderArgument) -> None:
    """Let a run begin no further slide: those that are under way are finished. See continue."""
    from pathgene_rt.archive.control import set_paused

    set_paused(folder, paused=True)


@archive.command("continue")
def go_on(folder: FolderArgument) -> None:
    """Let a paused run go on."""
    from pathgene_rt.archive.control import set_paused

    set_paused(folder, paused=False)


def _run(kind: Kind, given: dict[str, Any]) -> None:
    """``given`` are a command's parameters by their names."""
    from pathgene_rt.cli.archive_run import Asked, run

    console = Console(json=given.pop("json"), quiet=given.pop("quiet"))
    run(Asked.of(kind, given), console)
