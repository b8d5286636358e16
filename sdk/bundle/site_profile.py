"""What a site found of a bundle on its own slides, in a file that predicting can be told to use.

The file is JSON of :class:`SiteProfile`. It holds for one bundle, by hash, and every report that
was made with it names it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Literal

from numpy.typing import NDArray
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.arrays import read_arrays
from pathgene_rt.bundle.spec import Calibration, HeadSpec
from pathgene_rt.bundle.zones import DecisionZones, can_have_zones
from pathgene_rt.errors import BundleError, UsageError
from pathgene_rt.files import reason, sha256, write_bytes

FORMAT: Final = "pathgene-rt/site"
VERSION: Final = 1
SUFFIX = ".site.json"
_MAX_BYTES = 32 << 20
_STRICT = ConfigDict(extra="forbid")
_SHA256 = r"^[0-9a-f]{64}$"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProfiledBundle:
    """The bundle that a profile is of."""

    name: str
    version: str
    sha256: str = Field(pattern=_SHA256)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProfiledSlides:
    """What a profile was made from: numbers of slides and cases, and a hash of the slides' own
    hashes and labels."""

    count: int = Field(ge=1)
    cases: int = Field(ge=1)
    sha256: str = Field(pattern=_SHA256)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SiteHead:
    """What takes the place of a head's own calibration, threshold and zones. ``before`` and
    ``after`` are figures of the site's cases by name, the latter with each case by a calibration
    that it was left out of."""

    temperature: float = Field(gt=0, le=1e3)
    offset: FiniteFloat = 0.0
    threshold: float = Field(gt=0, lt=1)
    zones: DecisionZones | None = None
    cases: int = Field(ge=1)
    before: dict[str, float] = Field(default_factory=dict)
    after: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SiteDomain:
    """``arrays`` are base64 of the .npz of a description of the site's slides
    (:class:`~pathgene_rt.features.domain.DomainDescription`); ``alarm`` as of
    :class:`~pathgene_rt.bundle.domain.DomainSpec`."""

    alarm: float = Field(gt=0, lt=0.5)
    arrays: str

    def read(self) -> dict[str, NDArray[Any]]:
        """Raises ValueError."""
        try:
            return read_arrays(base64.b64decode(self.arrays, validate=True))
        except binascii.Error as error:
            raise ValueError(f"its arrays are no base64: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SiteIdentity:
    """Which profile a report was made with."""

    name: str
    sha256: str
    created: str
    slides: int
    cases: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SiteProfile:
    """``heads`` by name, of those that the site had labels for; others stay as they are.
    ``sha256`` is the file's; empty as long as there is none."""

    format: Literal["pathgene-rt/site"] = FORMAT
    version: Literal[1] = VERSION
    name: str = Field(min_length=1, max_length=120)
    created: str
    bundle: ProfiledBundle
    slides: ProfiledSlides
    heads: dict[str, SiteHead]
    domain: SiteDomain | None = None
    sha256: str = Field(default="", exclude=True)

    @property
    def identity(self) -> SiteIdentity:
        return SiteIdentity(
            name=self.name,
            sha256=self.sha256,
            created=self.created,
            slides=self.slides.count,
            cases=self.slides.cases,
        )

    def write(self, path: Path) -> SiteProfile:
        """Write the file, whole or not at all; the profile as it would be read back. Raises
        OutputError."""
        document = asdict(self)
        del document["sha256"]
        raw = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        write_bytes(path, raw)
        return replace(self, sha256=sha256(raw))

    def adapted(self, heads: tuple[HeadSpec, ...]) -> tuple[HeadSpec, ...]:
        """``heads`` as the site has them. Raises BundleError for what they cannot be."""
        unknown = self.heads.keys() - {head.name for head in heads}
        if unknown:
            raise BundleError(
                f"the site profile {self.name} has the head {min(unknown)}, which the bundle "
                "lacks; make the profile again"
            )
        return tuple(
            _adapted(head, self.heads[head.name]) if head.name in self.heads else head
            for head in heads
        )


_TYPE = TypeAdapter(SiteProfile)


def read_profile(path: Path) -> SiteProfile:
    """The profile in ``path``. Raises UsageError if it cannot be read; BundleError if it is none,
    of another version, or damaged."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the site profile {path}: {reason(error)}") from error
    try:
        document = json.loads(raw) if len(raw) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{path} is no site profile; make one with pathgene-rt site calibrate")
    if document.get("version") != VERSION:
        raise BundleError(
            f"{path} is a site profile of version {document.get('version')!r}, this pathgene-rt "
            f"reads {VERSION}; make it again"
        )
    try:
        profile = _TYPE.validate_python({**document, "sha256": sha256(raw)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"the site profile {path} does not fit at {place}: {first['msg']}; make it again"
        ) from error
    return profile


def _adapted(head: HeadSpec, site: SiteHead) -> HeadSpec:
    can = can_have_zones(len(head.model.classes), head.model.activation)
    if (site.zones is not None or site.offset) and not can:
        raise BundleError(
            f"the site profile has cut-offs or an offset for head {head.name}, which are for two "
            "classes or a single one; make the profile again"
        )
    if site.zones is not None and not site.zones.holds(site.threshold):
        raise BundleError(
            f"the site profile's threshold {site.threshold:g} of head {head.name} is outside its "
            f"cut-offs, {site.zones.low:g} and {site.zones.high:g}; make the profile again"
        )
    task = replace(
        head.task,
        calibration=Calibration(temperature=site.temperature, offset=site.offset),
        threshold=site.threshold,
        zones=site.zones,
    )
    return replace(head, task=task)
