"""What a caller may choose. Every option has a default that suits a hospital workstation."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from pathgene_rt.errors import UsageError
from pathgene_rt.pseudonyms import Pseudonyms

DEFAULT_IN_FLIGHT = 2

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8")
Language = Literal["en", "zh"]
"""Of pages: English, simplified Chinese."""

PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16", "int8"]

Isolate = Literal["auto", "always", "never"]
"""Whether slides are read in processes of their own; auto: those of readers of other packages."""

HardwareCompatible = Literal["none", "ampere_plus"]

MAX_BATCH = 4096
"""Tiles of one encoder call."""

PLAUSIBLE_MPP = (0.1, 1.5)
"""Micrometres per level-0 pixel of a microscope's scan: from finer than 60x to coarser than 10x.
Outside it lie resolutions of printers (300 dpi: 84.7) and mistaken units."""

IO_TIMEOUT_S = 60.0
"""Far longer than a sound disk takes, also one that must spin up."""


NO_CACHE_FOLDER = (
    "nothing is kept between runs: this user has no home folder for a cache; set PATHGENE_RT_CACHE"
)
"""What to say where :func:`default_cache_dir` is None."""


def checked_isolate(isolate: str) -> None:
    """Raise UsageError if ``isolate`` is none of those."""
    if isolate not in get_args(Isolate):
        raise UsageError(f"isolate {isolate!r} is unknown; choose auto, always or never")


def checked_mpp(name: str, mpp: float | None) -> None:
    """Raise UsageError if ``mpp``, the option ``name``, is no microscope's scale."""
    low, high = PLAUSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:  # NaN too
        raise UsageError(
            f"{name} {mpp:g} is no microscope's scale; give {low:g} to {high:g} micrometres per "
            "level-0 pixel, e.g. 0.25"
        )


def default_cache_dir() -> Path | None:
    """Where engines built for this machine are kept: ``PATHGENE_RT_CACHE`` or the user's cache.

    None where the user has no home folder, as in a container with a user id that has no entry in
    the password file; then nothing is kept.
    """
    if chosen := os.environ.get("PATHGENE_RT_CACHE"):
        return Path(chosen)
    try:
        found = platformdirs.user_cache_path("pathgene-rt", appauthor=False, opinion=False)
    except RuntimeError:  # there is no home folder, which earlier versions call "~"
        return None
    return found if found.is_absolute() else None


def default_cache_limit() -> int:
    """Bytes that kept engines may take: ``PATHGENE_RT_CACHE_LIMIT``, e.g. "2 GB", or 10 GB."""
    try:
        return parse_bytes(os.environ.get("PATHGENE_RT_CACHE_LIMIT") or "10 GB")
    except UsageError as error:
        raise UsageError(f"PATHGENE_RT_CACHE_LIMIT: {error}") from None


def parse_bytes(text: str) -> int:
    """Bytes as people write them: "500 MB", "2GB", "1.5 TB", "0". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*(|k|M|G|T)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{text!r} is no size; give e.g. 500MB or 2GB")
    return int(float(found[1]) * 1000 ** ("", "k", "m", "g", "t").index(found[2].lower()))


@dataclass(frozen=True)
class TensorRtOptions:
    """How TensorRT builds engines for this machine's card.

    ``workspace_mb`` bounds the scratch memory of a layer; 0 is a quarter of the card's memory, at
    most 4 GB. ``max_batch`` is the largest batch an encoder's engine takes; 0 suits the card.
    ``version_compatible`` engines also run with later versions of TensorRT, those that are
    ``hardware_compatible`` on other cards from Ampere on; both are slower. ``strip_weights`` keeps
    engines without weights, which are then read from the bundle at each start.
    """

    workspace_mb: int = 0
    max_batch: int = 0
    version_compatible: bool = False
    hardware_compatible: HardwareCompatible = "none"
    strip_weights: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.workspace_mb <= 1 << 20:
            raise UsageError(
                f"workspace {self.workspace_mb} MB is out of range; choose 0 (automatic) to 1048576"
            )
        if not 0 <= self.max_batch <= MAX_BATCH:
            raise UsageError(f"max_batch {self.max_batch} is out of range; choose 0 to {MAX_BATCH}")
        if self.hardware_compatible not in ("none", "ampere_plus"):
            raise UsageError(
                f"hardware compatibility {self.hardware_compatible!r} is unknown; choose none or "
                "ampere_plus"
            )

    @classmethod
    def of_record(cls, record: object) -> TensorRtOptions:
        """Those that a decision of `build` holds as a dict; the defaults if it holds none."""
        try:
            return cls(**record) if isinstance(record, dict) else cls()
        except (TypeError, UsageError):  # written by another version of this package
            return cls()


@dataclass(frozen=True)
class EngineOptions:
    """How graphs are run.

    ``backend`` is a registry name or "auto"; ``precision`` "auto" is what `build` found fastest
    within the limits on this machine, else float32. ``threads`` 0 means all cores that this
    process may use (affinity, control group). ``batch`` is the number of tiles an encoder call
    takes, ``in_flight`` the number of calls at once; 0 is what `build` found fastest here, else
    what suits the engine. ``cache_dir`` None turns the engine cache off; ``cache_limit_bytes`` is
    what engines kept there may take, older ones go. ``tensorrt`` None: as `build` was told for this
    bundle, else the defaults.
    """

    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    threads: int = 0
    batch: int = 0
    in_flight: int = 0
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    cache_limit_bytes: int = field(default_factory=default_cache_limit)
    tensorrt: TensorRtOptions | None = None

    def __post_init__(self) -> None:
        if self.precision != "auto" and self.precision not in PRECISIONS:
            known = ", ".join(("auto", *PRECISIONS))
            raise UsageError(f"precision {self.precision!r} is unknown; choose one of {known}")
        for name, low, high in (
            ("threads", 0, 1024),
            ("batch", 0, MAX_BATCH),
            ("in_flight", 0, 64),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} {value} is out of range; choose {low} to {high}")


@dataclass(frozen=True)
class TissueOptions:
    """What counts as tissue. Areas are in square micrometres, so that they hold at any scale.

    Regions smaller than ``min_area_um2`` are dust; holes up to ``max_hole_um2`` are filled (fat and
    lumens stay in). A tile is kept if at least ``min_tile_share`` of it is tissue.
    """

    mask_mpp: float = 8.0
    min_area_um2: float = 10_000.0
    max_hole_um2: float = 40_000.0
    min_tile_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0.5 <= self.mask_mpp <= 64:
            raise UsageError(f"mask_mpp {self.mask_mpp} is out of range; choose 0.5 to 64 um/px")
        if self.min_area_um2 < 0 or self.max_hole_um2 < 0:
            raise UsageError("tissue areas must not be negative; give square micrometres")
        if not 0 < self.min_tile_share <= 1:
            raise UsageError(
                f"min_tile_share {self.min_tile_share} is out of range; choose above 0, up to 1"
            )


@dataclass(frozen=True)
class Budget:
    """When to stop before a slide's last tile: after ``seconds``, after ``tiles``, or as soon as no
    probability's interval is wider than ``width``, whichever comes first. None: not for that.
    """

    seconds: float | None = None
    tiles: int | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UsageError(f"a budget of {self.seconds:g} s is none; give --budget 60s")
        if self.tiles is not None and self.tiles < 1:
            raise UsageError(f"a budget of {self.tiles} tiles is none; give --budget 2000tiles")
        if self.width is not None and not 0 < self.width < 1:
            raise UsageError(
                f"--until-stable {self.width:g} is no width of an interval of probabilities; give "
                "one between 0 and 1, e.g. 0.01"
            )

    @property
    def limited(self) -> bool:
        """Whether there is anything to stop for."""
        return any(limit is not None for limit in (self.seconds, self.tiles, self.width))


@dataclass(frozen=True)
class PredictOptions:
    """How a slide is read and what is written.

    ``mpp`` (um per level-0 pixel) is for slides that do not say theirs; ``mpp_override`` takes the
    place of what any says, and the report tells so. ``coords`` names a CLAM or TRIDENT coordinates
    file, or a folder with one for each slide, that replaces tissue detection. ``readers`` 0 lets
    the machine decide how many threads decode. ``io_timeout_s`` is how long reading may stand still
    before the slide fails; ``isolate`` says whether it is read in a process of its own, of which a
    crash costs that slide alone. ``exact`` rules out decoding at reduced size and on a GPU whose
    pixels differ, which are otherwise used where they pass their checks. ``html`` writes a page to
    read, ``pdf`` the same as a document (extra `pdf`), in ``language``; the page holds all.
    ``dicom`` writes the results as DICOM objects (extra `dicom`) of the study that the slide is of,
    if it is DICOM, else of what ``dicom_context`` states: a JSON file, or a folder with one for
    each slide. ``fhir`` writes them as a FHIR bundle.
    ``features`` writes them to a file, row by row as they come; ``resume`` takes over those that a
    killed run of the same kind left. ``budget`` may end a slide before its last tile: its report is
    then partial.
    With ``pseudonyms`` no report, file, warning or error names the slide: they have its pseudonym.
    ``slide_id`` is what results call the slide, if not as its file's name says.
    """

    mpp: float | None = None
    mpp_override: float | None = None
    coords: Path | None = None
    tissue: TissueOptions = field(default_factory=TissueOptions)
    readers: int = 0
    io_timeout_s: float = IO_TIMEOUT_S
    isolate: Isolate = "auto"
    exact: bool = False
    heatmaps: bool = True
    geojson: bool = True
    html: bool = True
    pdf: bool = False
    dicom: bool = False
    dicom_context: Path | None = None
    fhir: bool = False
    language: Language = "en"
    features: bool = False
    resume: bool = False
    budget: Budget = field(default_factory=Budget)
    pseudonyms: Pseudonyms | None = None
    slide_id: str = ""

    def __post_init__(self) -> None:
        checked_mpp("--mpp", self.mpp)
        checked_mpp("--mpp-override", self.mpp_override)
        if self.mpp is not None and self.mpp_override is not None:
            raise UsageError("--mpp and --mpp-override exclude each other; give one")
        checked_isolate(self.isolate)
        if self.language not in ("en", "zh"):
            raise UsageError(f"language {self.language!r} is unknown; choose en or zh")
        if not 0 <= self.readers <= 256:
            raise UsageError(f"readers {self.readers} is out of range; choose 0 (auto) to 256")
        if not 0.1 <= self.io_timeout_s <= 86_400:
            raise UsageError(
                f"--io-timeout {self.io_timeout_s:g} is out of range; choose 0.1 to 86400 seconds"
            )
