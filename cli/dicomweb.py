"""``pathgene-rt dicomweb``: slides of an archive in, results back into it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathgene_rt.cli.audit import AuditOption
from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    EngineOption,
    PrecisionOption,
    SiteOption,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.sign import SignatureOption
from pathgene_rt.errors import PathGeneError, UsageError

if TYPE_CHECKING:
    from pathgene_rt.cli.slide_batch import Ended
    from pathgene_rt.dicomweb.archive import Archive, SeriesKey
    from pathgene_rt.dicomweb.work import SeriesWork

COLUMNS = ("tiles", "tiles_per_second", "stored", "report")


def dicomweb(
    url: Annotated[str, typer.Argument(help="The service, e.g. https://pacs/dicom-web.")],
    bundle: BundleOption = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Results go to OUT/<series UID>/ first.")
    ] = Path("predictions"),
    where: Annotated[
        list[str] | None,
        typer.Option("--filter", help="KEY=VALUE that series match, as StudyDate=20260101-."),
    ] = None,
    worklist: Annotated[
        Path | None, typer.Option(help="A file of accession numbers, one a line, to look for.")
    ] = None,
    poll: Annotated[
        float, typer.Option(help="Look again every so many seconds, until Ctrl-C; 0: once.")
    ] = 0,
    store: Annotated[bool, typer.Option(help="Store results in the archive (STOW-RS).")] = True,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the bearer token to send.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust, PEM.")] = None,
    cert: Annotated[Path | None, typer.Option(help="Our own certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, if it is not in --cert.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 30.0,
    retry: Annotated[float, typer.Option(help="Seconds to try again what may pass.")] = 60.0,
    connections: Annotated[int, typer.Option(help="At once, for frames.")] = 4,
    cache: Annotated[str, typer.Option(help="Memory for frames of a slide.")] = "512MB",
    pdf: Annotated[bool, typer.Option("--pdf", help="Also the PDF (needs the extra pdf).")] = False,
    site: SiteOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    audit: AuditOption = None,
    require_signature: SignatureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict the slides of a DICOMweb archive that have no result yet; store the results there.

    Connects to URL and nowhere else. A series that fails does not stop the others (exit code 7).
    """
    from pathgene_rt.audit.trail import AuditTrail
    from pathgene_rt.bundle.site_profile import read_profile
    from pathgene_rt.dicomweb.archive import Archive
    from pathgene_rt.dicomweb.server import Server
    from pathgene_rt.dicomweb.session import Session, require_dicomweb
    from pathgene_rt.dicomweb.work import SeriesWork
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions, parse_bytes
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.report.dicom.requirements import require_dicom
    from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile

    console = Console(json=json, quiet=quiet)
    require_dicomweb()
    profile = None if site is None else read_profile(site)
    if site is not None and profile is not None:
        require_signed_profile(site, profile.sha256, keyrings_of_site(require_signature))
    server = Server.of(
        url,
        token_file=token_file,
        ca=ca,
        certificate=cert,
        key=key,
        timeout_s=timeout,
        retry_s=retry,
        connections=connections,
    )
    filters = read_filters(where or [])
    numbers = read_worklist(worklist) if worklist is not None else [""]
    limit_bytes = parse_bytes(cache)
    if limit_bytes < 16_000_000:
        raise UsageError(f"--cache {cache} holds no slide's frames; give 16MB or more")
    if poll < 0:
        raise UsageError(f"--poll {poll:g} is no time; give seconds, or 0 to look once")
    options = PredictOptions(pdf=pdf, dicom=True)
    require_dicom(options)
    folder = writable_folder(out)
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    with console.steps() as step:
        opened = Predictor.open(
            find_bundle(bundle),
            engines,
            site=profile,
            progress=step,
            audit=None if audit is None else AuditTrail(audit),
            keyring=require_signature,
        )
    with opened as predictor, Session(server) as session:
        archive = Archive(session)
        work = SeriesWork(predictor, archive, folder, options, store=store, limit_bytes=limit_bytes)
        while True:
            try:
                found = list(dict.fromkeys(find(archive, filters, numbers)))
                look(work, found, console, told=not poll)
            except PathGeneError as error:
                if not poll or isinstance(error, UsageError):
                    raise
                console.warn(str(error))
            if not poll:
                break
            time.sleep(poll)
        console.say(predictor.bundle.manifest.intended_use)


def read_filters(texts: list[str]) -> dict[str, str]:
    """QIDO-RS parameters of KEY=VALUE. Raises UsageError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isalnum() or not value:
            raise UsageError(f"--filter {text}: give KEY=VALUE, as PatientID=123")
        found[name] = value
    return found


def read_worklist(path: Path) -> list[str]:
    """The accession numbers in ``path``. Raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the worklist {path}: {error}") from error
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise UsageError(f"the worklist {path} has no accession number; write one a line")
    return found


def find(archive: Archive, filters: dict[str, str], numbers: list[str]) -> Iterator[SeriesKey]:
    """The series that match ``filters``, of each of ``numbers`` ("": whichever)."""
    for number in numbers:
        yield from archive.find_series(filters | ({"AccessionNumber": number} if number else {}))


def look(work: SeriesWork, found: list[SeriesKey], console: Console, *, told: bool) -> None:
    """Do the series of ``found``; where they were not ``told`` of before, only new ones count.
    Raises as :meth:`Batch.raise_failures`."""
    from pathgene_rt.cli.slide_batch import Batch

    todo = found if told else [key for key in found if not work.is_done(key)]
    if not todo:
        if told:
            console.note("the archive has no such series; check --filter and --worklist")
        return
    batch = Batch(console)
    with batch:
        ended = (_ended(work, key, batch, console) for key in todo)
        batch.follow("slide", len(todo), ended, columns=COLUMNS)
    batch.raise_failures()


def _ended(work: SeriesWork, key: SeriesKey, batch: object, console: Console) -> Ended:
    from pathgene_rt.cli.prediction_table import show_report
    from pathgene_rt.cli.slide_batch import Batch, Ended
    from pathgene_rt.report.stored import REPORT_FILE

    assert isinstance(batch, Batch)
    batch.tiles(key.series, 0, None)
    result = work.run(key, lambda done, total: batch.tiles(key.series, done, total))
    row: dict[str, object] = {"stored": result.stored}
    if result.report is not None:
        show_report(result.report, console)
        provenance = result.report.provenance
        row |= {
            "tiles": provenance.tiles,
            "tiles_per_second": round(provenance.tiles_per_second, 1),
            "report": str(result.folder / REPORT_FILE),
            "predictions": [one.to_dict() for one in result.report.predictions],
        }
    return Ended(key.series, result.outcome, row, result.error)
