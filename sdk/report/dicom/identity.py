"""What all objects of one report say alike: who made them, of what, and for which use."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pathgene_rt.report.dicom.codes import declare_schemes, one_line
from pathgene_rt.report.report import BundleIdentity, Report

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification
    from pydicom.dataset import Dataset

MAKER = "pathgene-rt"
SERIES = {"report": 9001, "map": 9002, "annotations": 9003, "document": 9004}
"""Numbers of the series, one for each kind of object."""

Made = TypeVar("Made", bound="Dataset")


@dataclass(frozen=True, kw_only=True)
class Author:
    """What made the answers of a report. ``software`` is this package's version; ``facts`` tell one
    run of the model from another ("name: value"), beside head and hashes."""

    bundle: BundleIdentity
    intended_use: str
    software: str
    facts: tuple[str, ...]

    @classmethod
    def of(cls, report: Report) -> Author:
        """Of a slide's report: the site's profile, the engine and the scale."""
        provenance = report.provenance
        engine, site = provenance.encoder, provenance.site
        return cls(
            bundle=provenance.bundle,
            intended_use=report.intended_use,
            software=provenance.versions["pathgene-rt"],
            facts=(
                *(() if site is None else (f"site profile sha256: {site.sha256}",)),
                f"engine: {engine.backend} {engine.version} {engine.precision}",
                f"tiles: {provenance.tiles} of {provenance.tile_px} px at {provenance.mpp:g} um/px",
            ),
        )


def new_uid() -> str:
    """A UID made of a random UUID (PS3.5, B.2): it tells nothing and needs no registered root."""
    return f"2.25.{uuid.uuid4().int}"


def device_uid(author: Author) -> str:
    """The same for everything that one bundle says."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, author.bundle.sha256).int}"


def use_line(author: Author) -> str:
    """The intended use, as far as a line of an object holds it."""
    return one_line(author.intended_use)


def object_identity(author: Author, kind: str, number: int = 1) -> dict[str, Any]:
    """Arguments of highdicom's constructors that say which object of which series this is."""
    return {
        "series_instance_uid": new_uid(),
        "series_number": SERIES[kind],
        "sop_instance_uid": new_uid(),
        "instance_number": number,
        "manufacturer": MAKER,
        "manufacturer_model_name": one_line(author.bundle.name),
        "software_versions": author.software,
        "device_serial_number": author.bundle.sha256,
        "series_description": use_line(author),
    }


def algorithm_parameters(author: Author, head: str) -> list[str]:
    """What tells one run of a model from another: head, hashes, and the author's facts."""
    return [
        f"head: {head}",
        f"bundle sha256: {author.bundle.sha256}",
        f"encoder sha256: {author.bundle.encoder_sha256}",
        *author.facts,
    ]


def algorithm(author: Author, head: str) -> AlgorithmIdentification:
    """TID 4019 of a head."""
    from highdicom.sr import AlgorithmIdentification
    from pydicom.sr.codedict import codes

    return AlgorithmIdentification(
        name=f"{author.bundle.name}: {head}",
        version=author.bundle.version,
        parameters=algorithm_parameters(author, head),
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MAKER,
    )


def finished(dataset: Made) -> Made:
    """``dataset`` with what all objects need beside what highdicom writes. In UTF-8: a bundle names
    its classes in any language, whatever the slide's character set is."""
    declare_schemes(dataset)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset
