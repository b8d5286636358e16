"""``pathgene-rt watch``: slides of a folder are predicted as they come."""

from __future__ import annotations

import json as jsonlib
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from pathgene_rt.cli.audit import AuditOption
from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    CoordsOption,
    DicomOption,
    EngineOption,
    FhirOption,
    GeojsonOption,
    HeatmapsOption,
    HtmlOption,
    IoTimeoutOption,
    IsolateOption,
    MppOption,
    MppOverrideOption,
    PdfOption,
    PrecisionOption,
    PseudonymizeOption,
    PseudonymKeyOption,
    ReadersOption,
    RecursiveOption,
    SiteOption,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.pseudonymize import choose_pseudonyms
from pathgene_rt.cli.sign import SignatureOption
from pathgene_rt.errors import CancelledError, UsageError
from pathgene_rt.options import IO_TIMEOUT_S, Language

if TYPE_CHECKING:
    from pathgene_rt.cancellation import CancellationToken


class _FolderFirst(TyperGroup):
    """``watch INBOX`` means ``watch run INBOX``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


watch = typer.Typer(name="watch", cls=_FolderFirst, no_args_is_help=True)


@watch.callback()
def _group() -> None:
    """Predict the slides of a folder as they come: `watch INBOX --out DIR` (`watch run --help`)."""


@watch.command()
def run(
    inbox: Annotated[Path, typer.Argument(help="The folder that slides come into.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Results go to OUT/<slide>/.")],
    bundle: BundleOption = None,
    recursive: RecursiveOption = False,
    settle: Annotated[
        float, typer.Option(help="Seconds that a slide's files must stand still to be whole.")
    ] = 30.0,
    poll: Annotated[float, typer.Option(help="Seconds between two looks.")] = 5.0,
    priority: Annotated[
        Path | None,
        typer.Option(help="File of name patterns, one a line: those slides come first."),
    ] = None,
    min_free: Annotated[
        str, typer.Option(metavar="SIZE", help="Pause while less of the disk of OUT is free.")
    ] = "2GB",
    give_up: Annotated[
        float, typer.Option(help="Seconds to try again a slide that does not open.")
    ] = 900.0,
    on_done: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="Program and arguments to run for each result, whose folder is added last. No "
            "shell sees them.",
        ),
    ] = "",
    mpp: MppOption = None,
    mpp_override: MppOverrideOption = None,
    coords: CoordsOption = None,
    features: Annotated[bool, typer.Option("--features", help="Also keep the features.")] = False,
    heatmaps: HeatmapsOption = True,
    geojson: GeojsonOption = True,
    html: HtmlOption = True,
    pdf: PdfOption = False,
    language: Annotated[str, typer.Option(help="In which report.html opens: en or zh.")] = "en",
    dicom: DicomOption = False,
    fhir: FhirOption = False,
    dicom_context: Annotated[
        Path | None,
        typer.Option(
            help="Folder with <slide>.json: whose slides they are, if they are no DICOM.",
            show_default=False,
        ),
    ] = None,
    site: SiteOption = None,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    isolate: IsolateOption = "auto",
    audit: AuditOption = None,
    require_signature: SignatureOption = None,
) -> None:
    """Predict each slide of INBOX once it is whole, until SIGTERM or Ctrl-C; log JSON lines.

    Any number of watchers may share INBOX and OUT. OUT/watch.sqlite has what became of each slide,
    OUT/failed/ why some failed: remove a file there and its slide is tried again.
    """
    from pathgene_rt.audit.trail import AuditTrail
    from pathgene_rt.bundle.site_profile import read_profile
    from pathgene_rt.cancellation import CancellationToken
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions, parse_bytes
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.report.dicom.requirements import require_dicom
    from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile
    from pathgene_rt.watch.hooks import parse_command
    from pathgene_rt.watch.service import ServiceNotifier
    from pathgene_rt.watch.settings import WatchSettings
    from pathgene_rt.watch.watcher import Watcher

    token = CancellationToken()
    console = Console(quiet=True)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    if not inbox.is_dir():
        raise UsageError(f"there is no folder {inbox}; name the one that slides come into")
    options = PredictOptions(
        mpp=mpp,
        mpp_override=mpp_override,
        coords=coords,
        readers=readers,
        io_timeout_s=io_timeout,
        isolate=isolate,
        heatmaps=heatmaps,
        geojson=geojson,
        html=html,
        pdf=pdf,
        dicom=dicom,
        dicom_context=dicom_context,
        fhir=fhir,
        language=cast(Language, language),
        features=features,
        pseudonyms=pseudonyms,
    )
    require_dicom(options)
    if dicom_context is not None and not dicom_context.is_dir():
        raise UsageError("watch takes a folder of contexts; --dicom-context names none")
    profile = None if site is None else read_profile(site)
    if site is not None and profile is not None:
        require_signed_profile(site, profile.sha256, keyrings_of_site(require_signature))
    settings = WatchSettings(
        settle_s=settle,
        poll_s=poll,
        recursive=recursive,
        priority=priority,
        min_free_bytes=parse_bytes(min_free),
        on_done=parse_command(on_done) if on_done else (),
        give_up_s=give_up,
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    writable_folder(out)
    trail = None if audit is None else AuditTrail(audit)
    with ServiceNotifier() as service:
        service.status("opening the bundle")
        opened = Predictor.open(
            find_bundle(bundle), engines, site=profile, audit=trail, keyring=require_signature
        )
        with opened as predictor:
            for note in predictor.notes:
                _log("engine", text=note)
            watcher = Watcher(predictor, inbox, out, options, settings, log=_log, service=service)
            # Not before: while a bundle opens, engines compile for minutes, in which no handler of
            # ours would run. There the system ends the process at once, which costs nothing.
            _stop_on_signals(token)
            service.ready()
            watcher.run(token)
            service.stopping()


@watch.command()
def status(
    out: Annotated[Path, typer.Argument(help="Where results go, as --out of `watch`.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what watchers did and do: counts, what is under way, what waits, what failed and why."""
    from pathgene_rt.watch.status import watch_status

    console = Console(json=json, quiet=quiet)
    found = watch_status(out)
    console.emit(found)
    counts = found["counts"]
    console.say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none")
    for one in found["watchers"]:
        console.say(f"watcher {one['worker']}: {one['doing']}, seen {_time(one['seen'])}")
    rows = [
        [one["slide"], state, str(one["tries"]), _time(one["next_try"]), one["reason"]]
        for state in ("running", "retry", "failed")
        for one in found[state]
    ]
    if rows:
        console.table("", ["slide", "state", "tries", "next try", "reason"], rows)
    if found["hooks_due"]:
        console.say(f"{found['hooks_due']} results wait for --on-done")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _log(event: str, level: str = "info", **facts: Any) -> None:
    """One line of JSON on stdout, which systemd's journal or a file keeps."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level}
    text = jsonlib.dumps({**line, "event": event, **facts})
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _stop_on_signals(token: CancellationToken) -> None:
    """SIGTERM and Windows' Ctrl-Break stop the watcher in order; a second one at once."""
    stopped = threading.Event()

    def stop(*_: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        token.cancel(CancelledError("the watcher was stopped"))

    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
