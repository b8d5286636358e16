"""``pathgene-rt predict``: slides in, reports out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from pathgene_rt.cli.audit import AuditOption
from pathgene_rt.cli.budget import BudgetOption, UntilStableOption, read_budget
from pathgene_rt.cli.choices import (
    BatchOption,
    BundleOption,
    CoordsOption,
    DicomOption,
    EngineOption,
    ExactOption,
    FhirOption,
    GeojsonOption,
    HeatmapsOption,
    HtmlOption,
    IoTimeoutOption,
    IsolateOption,
    MppOption,
    MppOverrideOption,
    OverwriteOption,
    PdfOption,
    PrecisionOption,
    PseudonymizeOption,
    PseudonymKeyOption,
    ReadersOption,
    RecursiveOption,
    SiteOption,
    SlidesArgument,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.pseudonymize import choose_pseudonyms, find_unnamed
from pathgene_rt.cli.sign import SignatureOption
from pathgene_rt.errors import UsageError
from pathgene_rt.options import IO_TIMEOUT_S, Language
from pathgene_rt.pseudonyms import KEY_VARIABLE


def predict(
    slides: SlidesArgument,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results go to OUT/<slide>/.")] = Path(
        "predictions"
    ),
    recursive: RecursiveOption = False,
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
    heatmaps: HeatmapsOption = True,
    geojson: GeojsonOption = True,
    html: HtmlOption = True,
    pdf: PdfOption = False,
    dicom: DicomOption = False,
    fhir: FhirOption = False,
    dicom_context: Annotated[
        Path | None,
        typer.Option(
            help="Whose slide it is, if it is no DICOM: FILE.json, or a folder with <slide>.json.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="In which report.html opens: en or zh; it holds both.")
    ] = "en",
    budget: BudgetOption = None,
    until_stable: UntilStableOption = None,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    anonymize: Annotated[bool, typer.Option("--anonymize", hidden=True)] = False,
    site: SiteOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    io_timeout: IoTimeoutOption = IO_TIMEOUT_S,
    isolate: IsolateOption = "auto",
    exact: ExactOption = False,
    devices: Annotated[
        str,
        typer.Option(
            help="Share the slides among GPUs, by number (0,1,2) or all (extra ray).",
            show_default=False,
        ),
    ] = "",
    overwrite: OverwriteOption = False,
    audit: AuditOption = None,
    require_signature: SignatureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict each slide; write report.json, heatmaps and GeoJSON to OUT/<slide>/.

    Slides that have a report of this bundle and these options are skipped unless --overwrite. A bad
    slide does not stop the others (exit code 7 then), but its case gets no prediction.
    """
    from pathgene_rt.audit.trail import AuditTrail
    from pathgene_rt.batch import known_ids
    from pathgene_rt.bundle.site_profile import read_profile
    from pathgene_rt.cases.table import CaseTable, read_cases
    from pathgene_rt.cli.predict_batch import predict_batch
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.predictor import Predictor
    from pathgene_rt.report.dicom.requirements import require_dicom
    from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile
    from pathgene_rt.tiles.external_coords import check_coords

    console = Console(json=json, quiet=quiet)
    profile = None if site is None else read_profile(site)
    if site is not None and profile is not None:
        require_signed_profile(site, profile.sha256, keyrings_of_site(require_signature))
    limits = read_budget(budget, until_stable)
    if limits.limited and cases is not None:
        raise UsageError("--cases needs whole slides; leave out --budget and --until-stable")
    if anonymize:
        console.warn("--anonymize is now called --pseudonymize and goes with the next version")
    pseudonyms = choose_pseudonyms(pseudonymize or anonymize, pseudonym_key, console)
    if resume and pseudonyms is not None and not pseudonyms.lasting:
        raise UsageError(f"--resume with --pseudonymize needs --pseudonym-key or ${KEY_VARIABLE}")
    found = find_unnamed(slides, pseudonyms, console, recursive=recursive)
    check_coords(coords, len(found))
    table = CaseTable((), ())
    if cases is not None:
        table = read_cases(cases, found, pseudonyms, known_ids(found, out, pseudonyms))
    for note in table.notes:
        console.warn(note)
    options = PredictOptions(
        mpp=mpp,
        mpp_override=mpp_override,
        coords=coords,
        readers=readers,
        io_timeout_s=io_timeout,
        isolate=isolate,
        exact=exact,
        heatmaps=heatmaps,
        geojson=geojson,
        html=html,
        pdf=pdf,
        dicom=dicom,
        dicom_context=dicom_context,
        fhir=fhir,
        language=cast(Language, language),
        features=features,
        resume=resume,
        budget=limits,
        pseudonyms=pseudonyms,
    )
    require_dicom(options, found)
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    folder = writable_folder(out)
    if devices:
        from pathgene_rt.cli.predict_devices import Trust, predict_on_devices

        chosen = find_bundle(bundle)
        digest = "" if profile is None else profile.sha256
        predict_on_devices(
            devices,
            found,
            table.cases,
            folder,
            chosen,
            options,
            engines,
            Trust(site, digest, audit, require_signature),
            console,
            overwrite=overwrite,
        )
        return
    trail = None if audit is None else AuditTrail(audit)
    with console.steps() as step:
        opened = Predictor.open(
            find_bundle(bundle),
            engines,
            site=profile,
            progress=step,
            audit=trail,
            keyring=require_signature,
        )
    with opened as predictor:
        for note in predictor.notes:
            console.note(note)
        if profile is not None:
            console.note(f"calibrated and called by the site profile {profile.name}")
        predict_batch(predictor, found, folder, options, table.cases, console, overwrite=overwrite)
        console.say(predictor.bundle.manifest.intended_use)
