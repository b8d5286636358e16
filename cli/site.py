"""``pathgene-rt site``: a bundle on a hospital's own slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pathgene_rt.cli.choices import (
    BatchOption,
    BundleArgument,
    BundleOption,
    EngineOption,
    MppOption,
    PrecisionOption,
    PseudonymizeOption,
    PseudonymKeyOption,
    ReadersOption,
    RecursiveOption,
    ThreadsOption,
    find_bundle,
)
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.pseudonymize import choose_pseudonyms
from pathgene_rt.errors import BatchError, UsageError, VerificationError
from pathgene_rt.options import Language

if TYPE_CHECKING:
    from pathgene_rt.site.figures import HeadFigures, Share

site = typer.Typer(name="site", no_args_is_help=True)

LabelsArgument = Annotated[
    Path,
    typer.Argument(
        help="CSV: slide_id, case_id, a column for each head (its name or gene); glass and scanner "
        "where slides were scanned again.",
        show_default=False,
    ),
]
SlidesOrPredictions = Annotated[
    list[str],
    typer.Argument(
        help="Slides (files, patterns, folders), or one folder that predict wrote.",
        show_default=False,
    ),
]
PredictionsOption = Annotated[
    Path | None,
    typer.Option(help="Where slides are predicted to, and found again; else beside the result."),
]
LanguageOption = Annotated[
    str, typer.Option(help="In which the document opens: en or zh; it holds both.")
]


@site.callback()
def _group() -> None:
    """A bundle on your own slides: validated, calibrated, compared with another."""


@site.command()
def validate(
    labels: LabelsArgument,
    slides: SlidesOrPredictions,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The document goes here.")] = Path(
        "validation"
    ),
    predictions: PredictionsOption = None,
    profile: Annotated[
        Path | None, typer.Option("--site", help="Validate with this site profile.")
    ] = None,
    again: Annotated[
        int, typer.Option("--again", min=0, help="Predict so many slides once more.")
    ] = 3,
    recursive: RecursiveOption = False,
    mpp: MppOption = None,
    language: LanguageOption = "en",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Figures of BUNDLE on SLIDES of known LABELS, beside what it claims: one document to sign.

    What is not predicted yet is predicted. Of a slide that fails the others are not stopped (exit
    code 7); goldens that are not reproduced here are exit code 6. The document is written anyhow.
    """
    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.bundle.site_profile import read_profile
    from pathgene_rt.cli.site_slides import SiteSlides
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.site.installation import installed, operation
    from pathgene_rt.site.pages import write_validation
    from pathgene_rt.site.slides import read_known
    from pathgene_rt.site.validate import PAGE_FILE, predict_again
    from pathgene_rt.site.validate import validate as validated

    console = Console(json=json, quiet=quiet)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    options = PredictOptions(
        mpp=mpp, readers=readers, language=cast(Language, language), pseudonyms=pseudonyms
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    at_site = None if profile is None else read_profile(profile)
    with Bundle.open(find_bundle(bundle)) as plain:
        opened = plain if at_site is None else plain.at_site(at_site)
        known = read_known(labels, opened.heads, pseudonyms)
        there = SiteSlides.of(
            slides, predictions or out / "predictions", console, recursive, pseudonyms
        )
        there.require(known)
        folder = writable_folder(out)
        with there.predicted(opened.path, engines, options, console, at_site) as predictor:
            pairs = []
            if predictor is not None and again:
                console.note(f"predicting {min(again, len(there.slides))} slides once more")
                pairs = predict_again(predictor, known, there.slides, there.folder, again, options)
        console.note("replaying the bundle's goldens")
        found = validated(
            known,
            there.folder,
            opened,
            failures=there.failures,
            again=pairs,
            installed=installed(opened),
            operation=operation(opened, engines),
        )
    for note in found.notes:
        console.warn(note)
    write_validation(found, folder, options.language)
    console.emit(found.to_dict())
    for head in found.heads:
        _show(head, console)
    console.say(f"{folder / PAGE_FILE}: {found.slides} slides of {found.cases} cases")
    if not found.operation.passed:
        raise VerificationError(
            "goldens are not reproduced here; run pathgene-rt verify, and see the document"
        )
    if found.failures:
        raise BatchError(
            f"{len(found.failures)} of {found.slides} slides failed; the document says why"
        )


@site.command()
def calibrate(
    labels: LabelsArgument,
    slides: SlidesOrPredictions,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The profile, NAME.site.json.", show_default=False)
    ],
    bundle: BundleOption = None,
    predictions: PredictionsOption = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help="Share of positive cases there: needed where slides were chosen by their class, "
            "and better than the share of 30 slides where the laboratory knows it."
        ),
    ] = None,
    keep_cut_offs: Annotated[
        bool,
        typer.Option("--keep-cut-offs", help="Probabilities only: every slide called as before."),
    ] = False,
    sensitivity: Annotated[float | None, typer.Option(help="Rule out, holding this.")] = None,
    specificity: Annotated[float | None, typer.Option(help="Rule in, holding this.")] = None,
    npv: Annotated[float | None, typer.Option(help="Rule out, holding this.")] = None,
    ppv: Annotated[float | None, typer.Option(help="Rule in, holding this.")] = None,
    confidence: Annotated[float, typer.Option(help="With which cut-offs hold it.")] = 0.95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a profile.")] = False,
    recursive: RecursiveOption = False,
    mpp: MppOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a site profile from at least 30 SLIDES of known LABELS, for predict --site.

    Cut-offs are set anew for what the bundle's own state, or for what is stated here; what the
    number of cases cannot support is refused.
    """
    from dataclasses import asdict

    from pathgene_rt.bundle.bundle import Bundle
    from pathgene_rt.bundle.site_profile import SUFFIX
    from pathgene_rt.cli.site_slides import SiteSlides, stated_zones
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.site.calibrate import CalibrationChoice, calibrate_site
    from pathgene_rt.site.slides import predicted_ids, read_known, read_predicted

    console = Console(json=json, quiet=quiet)
    zones = stated_zones(sensitivity, specificity, npv, ppv, prevalence, confidence)
    choice = CalibrationChoice(prevalence=prevalence, zones=zones, keep_cut_offs=keep_cut_offs)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    options = PredictOptions(mpp=mpp, readers=readers, features=True, pseudonyms=pseudonyms)
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out or give --overwrite")
    writable_folder(out.parent)
    with Bundle.open(find_bundle(bundle)) as opened:
        known = read_known(labels, opened.heads, pseudonyms)
        there = SiteSlides.of(
            slides, predictions or out.parent / "predictions", console, recursive, pseudonyms
        )
        there.require(known)
        with there.predicted(opened.path, engines, options, console, None):
            pass
        known = known.require({*predicted_ids(there.folder), *there.failures})
        for slide_id, why in there.failures.items():
            console.warn(f"{slide_id} is left out: {why}")
        read = read_predicted(there.folder, opened, [row.slide_id for row in known.rows])
        name = out.name.removesuffix(SUFFIX).removesuffix(".json")
        found = calibrate_site(name, known, read, opened, choice)
        profile = found.profile.write(out)
    for note in (*known.notes, *found.notes):
        console.warn(note)
    rows = [
        [head, figure, f"{before:.3f}", f"{own.after[figure]:.3f}"]
        for head, own in profile.heads.items()
        for figure, before in own.before.items()
    ]
    console.table("", ["head", "figure", "before", "after (cases left out)"], rows)
    console.emit(
        {
            "profile": str(out),
            "sha256": profile.sha256,
            "heads": {name: asdict(head) for name, head in profile.heads.items()},
            "domain": profile.domain is not None,
            "notes": list(found.notes),
        }
    )
    console.say(f"{out}: of {profile.slides.count} slides, {profile.slides.cases} cases")


@site.command()
def compare(
    first: BundleArgument,
    second: BundleArgument,
    labels: Annotated[Path, typer.Option(help="CSV of labels, as for validate.")],
    slides: Annotated[
        list[str] | None, typer.Option(help="Slides; may be given several times.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The document goes here.")] = Path(
        "comparison"
    ),
    first_predictions: Annotated[
        Path | None, typer.Option(help="What predict wrote with FIRST; else OUT/first.")
    ] = None,
    second_predictions: Annotated[
        Path | None, typer.Option(help="What predict wrote with SECOND; else OUT/second.")
    ] = None,
    recursive: RecursiveOption = False,
    mpp: MppOption = None,
    language: LanguageOption = "en",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    batch: BatchOption = 0,
    readers: ReadersOption = 0,
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Two bundles on the same slides, paired: AUROCs, calls, and the cases on which they differ."""
    from pathgene_rt.cli.site_slides import compared
    from pathgene_rt.files import writable_folder
    from pathgene_rt.options import EngineOptions, PredictOptions
    from pathgene_rt.site.compare import COMPARISON_PAGE
    from pathgene_rt.site.pages import write_comparison

    console = Console(json=json, quiet=quiet)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    options = PredictOptions(
        mpp=mpp, readers=readers, language=cast(Language, language), pseudonyms=pseudonyms
    )
    engines = EngineOptions(backend=engine, precision=precision, threads=threads, batch=batch)
    folder = writable_folder(out)
    found = compared(
        (first, second),
        labels,
        slides or [],
        folder,
        (first_predictions, second_predictions),
        engines,
        options,
        console,
        recursive=recursive,
    )
    write_comparison(found, folder, options.language)
    console.emit(found.to_dict())
    rows = [
        [
            head.head,
            one.name,
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            f"{one.difference:+.3f} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})",
            f"{one.p:.3g}",
        ]
        for head in found.heads
        for one in head.classes
    ]
    console.table("AUROC", ["head", "class", "first", "second", "difference", "p"], rows)
    for head in found.heads:
        if head.right is not None:
            console.say(
                f"{head.head}: right by the first alone {head.right.first}, by the second alone "
                f"{head.right.second} (McNemar p = {head.right.p:.3g}); called differently: "
                f"{len(head.disagreements)}"
            )
    console.say(str(folder / COMPARISON_PAGE))


def _show(head: HeadFigures, console: Console) -> None:
    """A head's figures as a table."""
    rows = [
        [
            one.name,
            f"{one.positive} / {one.negative}",
            "-" if one.auroc is None else f"{one.auroc:.3f}{_ends(one.auroc_interval)}",
            _share(one.sensitivity),
            _share(one.specificity),
            _share(one.decided),
        ]
        for one in head.classes
    ]
    columns = ["class", "cases", "AUROC", "sensitivity", "specificity", "decided"]
    console.table(f"{head.head}: {head.cases} cases", columns, rows)
    if head.withheld:
        console.say(f"withheld: {', '.join(f'{why} {n}' for why, n in head.withheld.items())}")
    for claim in head.claims:
        if claim.verdict == "below":
            console.warn(
                f"{head.head}: {claim.figure} {claim.found:.3f}{_ends(claim.interval)} is below "
                f"the {claimed_by(claim.source)} {claim.claimed:.3f}"
            )
    for key, values in head.notes:
        console.warn(f"{head.head}: {_english(key, values)}")


def claimed_by(source: str) -> str:
    """Whose claim it is, in words."""
    return "cut-off's" if source == "cut-off" else "training's"


def _english(key: str, values: dict[str, str]) -> str:
    from pathgene_rt.pages.texts import Texts

    return Texts("en")(key, **values)


def _share(share: Share) -> str:
    value = share.value
    if value is None:
        return "-"
    return f"{value:.1%}{_ends(share.interval)}"


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
