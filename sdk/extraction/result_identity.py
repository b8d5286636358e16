"""What decides a result's content: whether an earlier one is the one that is asked for now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pathgene_rt.errors import FileAccessError
from pathgene_rt.files import reason, sha256
from pathgene_rt.options import PredictOptions
from pathgene_rt.pseudonyms import shown_id
from pathgene_rt.slide_ids import context_file, slide_id_of
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.tiles.external_coords import coords_of_slide

_EQUAL = {
    "slide_sha256": "the slide",
    "mpp": "--mpp",
    "mpp_override": "--mpp-override",
    "coords_sha256": "--coords",
    "tissue": "what counts as tissue",
    "site_sha256": "--site",
}
"""What must be equal, in a user's words."""

_AS_ASKED = {
    "html": "--html or --language",
    "pdf": "--pdf or --language",
    "dicom": "--dicom or --dicom-context",
    "fhir": "--fhir or --dicom-context",
}
"""What must be there, in the language and of the context that are asked for."""

_MORE = {"exact": "--exact", "heatmaps": "--heatmaps", "geojson": "--geojson"}
"""What must be there if it is asked for."""


@dataclass(frozen=True)
class ResultIdentity:
    """The slide's file and the options that change results; hashes are in hex digits, or under the
    key of the pseudonyms where names are not to be told.

    ``coords_sha256`` is of the coordinates file, ``html`` and ``pdf`` the language of these pages,
    ``dicom`` and ``fhir`` the hash of the context that these name, "" without one. ``exact`` and
    ``precision`` are as they were asked for ("auto": whatever the machine is fastest with, within
    the limits); engines, threads and batches are not here, for they change no result by more than
    those limits. ``site_sha256`` is of the site profile; features do not depend on it.
    """

    slide_sha256: str
    slide_time_sha256: str
    mpp: float | None
    mpp_override: float | None
    coords_sha256: str | None
    tissue: Mapping[str, float]
    exact: bool
    precision: str
    budget: Mapping[str, float | None]
    heatmaps: bool
    geojson: bool
    html: str | None
    pdf: str | None
    dicom: str | None = None
    fhir: str | None = None
    site_sha256: str | None = None

    @classmethod
    def of(
        cls,
        slide: Path | GivenSlide,
        options: PredictOptions,
        precision: str,
        fingerprint: SlideFingerprint | None = None,
    ) -> Self:
        """Of a result that is asked for; ``fingerprint`` is that of the file where it is known, as
        of one that lies in a store. Raises SlideError of the file, FileAccessError and
        FeatureFileError of the coordinates."""
        if isinstance(slide, GivenSlide):
            fingerprint = slide.fingerprint
        elif fingerprint is None:
            fingerprint = SlideFingerprint.of(slide, options.io_timeout_s)
        coords = None
        if options.coords is not None and isinstance(slide, Path):
            digest = _file_sha256(coords_of_slide(options.coords, slide))
            coords = shown_id(digest, options.pseudonyms)
        context = _context_sha256(slide, options) if options.dicom or options.fhir else ""
        return cls(
            slide_sha256=shown_id(fingerprint.content_sha256, options.pseudonyms),
            slide_time_sha256=shown_id(fingerprint.time_sha256, options.pseudonyms),
            mpp=options.mpp,
            mpp_override=options.mpp_override,
            coords_sha256=coords,
            tissue=asdict(options.tissue),
            exact=options.exact,
            precision=precision,
            budget=asdict(options.budget),
            heatmaps=options.heatmaps,
            geojson=options.geojson,
            html=options.language if options.html else None,
            pdf=options.language if options.pdf else None,
            dicom=context if options.dicom else None,
            fhir=context if options.fhir else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in results."""
        return asdict(self)

    @property
    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def differences(self, found: Mapping[str, Any], *, partial: bool) -> list[str]:
        """In what an earlier result, made of ``found`` (:meth:`to_dict`), is not what this asks
        for, in words. One that is exact, of a certain precision or has pictures also serves where
        that is not asked for, and any budget if it ended no slide (``partial``); see also
        :meth:`was_touched`.
        """
        asked = self.to_dict()
        differing = [words for name, words in _EQUAL.items() if asked[name] != found.get(name)]
        differing += [words for name, words in _MORE.items() if asked[name] and not found.get(name)]
        if partial and asked["budget"] != found.get("budget"):
            differing.append("--budget or --until-stable")
        for name, words in _AS_ASKED.items():
            if asked[name] not in (None, found.get(name)):
                differing.append(words)
        if self.precision not in ("auto", found.get("precision")):
            differing.append("--precision")
        return differing

    def was_touched(self, found: Mapping[str, Any]) -> bool:
        """Whether the slide's file has other times than when ``found`` was made."""
        return bool(found.get("slide_time_sha256") != self.slide_time_sha256)


def _context_sha256(slide: Path | GivenSlide, options: PredictOptions) -> str:
    if options.dicom_context is None:
        return ""
    named = slide.name if isinstance(slide, GivenSlide) else slide_id_of(slide)
    return _file_sha256(context_file(options.dicom_context, options.slide_id or named))


def _file_sha256(path: Path) -> str:
    try:
        return sha256(path.read_bytes())
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {reason(error)}; give another file") from error
