"""Options that several commands share, written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.errors import UsageError
from pathgene_rt.options import HardwareCompatible, Isolate, PrecisionChoice
from pathgene_rt.pseudonyms import KEY_VARIABLE

BUNDLE_VARIABLE = "PATHGENE_RT_BUNDLE"

SlidesArgument = Annotated[
    list[str], typer.Argument(help="Slides: files, patterns or folders.", show_default=False)
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-r", help="Also search the folders in folders for slides.")
]
BundleArgument = Annotated[Path, typer.Argument(help="The bundle, NAME.pgrt.", show_default=False)]
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        "-b",
        help=f"The bundle; else ${BUNDLE_VARIABLE}, else the only .pgrt here.",
        show_default=False,
    ),
]
BundlesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle",
        "-b",
        help="The bundle; several, each named by its own --bundle, read every slide once.",
        show_default=False,
    ),
]
MppOption = Annotated[
    float | None,
    typer.Option(help="Micrometres per level-0 pixel, where the slide does not say it."),
]
MppOverrideOption = Annotated[
    float | None,
    typer.Option(help="Micrometres per level-0 pixel, whatever the slide says; the report tells."),
]
CoordsOption = Annotated[
    Path | None,
    typer.Option(
        help="CLAM or TRIDENT coordinates instead of our own tiles: one slide's file, or the "
        "folder that has each slide's."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(help=f"auto, or one of {', '.join(name for name, _ in BACKENDS)}."),
]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(help="auto is what `build` found fastest within the limits, else float32."),
]
ThreadsOption = Annotated[
    int, typer.Option(help="Threads of the engine; 0: all cores that this process may use.")
]
BatchOption = Annotated[
    int, typer.Option(help="Tiles an encoder call takes; 0: as `build` measured.")
]
WorkspaceOption = Annotated[
    int,
    typer.Option(
        metavar="MB", help="TensorRT: scratch memory that a layer may use; 0 suits the card."
    ),
]
VersionCompatibleOption = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="TensorRT: engines that later versions of it run, too; slower.",
    ),
]
HardwareCompatibleOption = Annotated[
    HardwareCompatible,
    typer.Option(help="TensorRT: ampere_plus engines run on other cards, too; slower."),
]
StripWeightsOption = Annotated[
    bool,
    typer.Option(
        "--strip-weights",
        help="TensorRT: keep engines without weights, which the bundle has at each start.",
    ),
]
ReadersOption = Annotated[int, typer.Option(help="Threads that decode tiles; 0 means automatic.")]
IoTimeoutOption = Annotated[
    float,
    typer.Option(help="Seconds without a tile being read until the slide fails (a stalled share)."),
]
IsolateOption = Annotated[
    Isolate,
    typer.Option(
        help="Read each slide in a process of its own, which may crash; auto: plug-ins, CZI."
    ),
]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="The reader's full pixels, also where others do.")
]
PseudonymizeOption = Annotated[
    bool,
    typer.Option("--pseudonymize", help="No output names a slide or case: pseudonyms instead."),
]
PseudonymKeyOption = Annotated[
    Path | None,
    typer.Option(
        help=f"File of 32 or more random bytes, the site's key for --pseudonymize; else "
        f"${KEY_VARIABLE}, else pseudonyms are random in each run.",
        show_default=False,
    ),
]
HeatmapsOption = Annotated[bool, typer.Option(help="Draw a heatmap per head.")]
GeojsonOption = Annotated[bool, typer.Option(help="Write the tiles for QuPath.")]
HtmlOption = Annotated[bool, typer.Option(help="Write report.html, to read and print.")]
PdfOption = Annotated[
    bool, typer.Option("--pdf", help="Also write report.pdf (needs the extra pdf).")
]
DicomOption = Annotated[
    bool,
    typer.Option("--dicom", help="Also write DICOM objects for the archive (extra dicom)."),
]
FhirOption = Annotated[bool, typer.Option("--fhir", help="Also write report.fhir.json (FHIR R4).")]
SiteOption = Annotated[
    Path | None,
    typer.Option(help="Site profile (`site calibrate`) to calibrate and call by."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def find_bundle(bundle: Path | None) -> Path:
    """The bundle that was named, else the environment's, else the only one in this folder."""
    if bundle is not None:
        return bundle
    named = os.environ.get(BUNDLE_VARIABLE)
    if named:
        return Path(named)
    here = sorted(Path.cwd().glob("*.pgrt"))
    if len(here) == 1:
        return here[0]
    found = f"{len(here)} in this folder" if here else "none in this folder"
    raise UsageError(
        f"no bundle named and {found}; give --bundle NAME.pgrt or set {BUNDLE_VARIABLE}"
    )
