"""What all objects of one report say alike: who made them, of what, and for which use."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from pathgene_rt.report.dicom.codes import declare_schemes, one_line
from pathgene_rt.report.report import Report

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification
    from pydicom.dataset import Dataset

MAKER = "pathgene-rt"
SERIES = {"report": 9001, "map": 9002, "annotations": 9003, "document": 9004}
"""Numbers of the series, one for each kind of object."""

Made = TypeVar("Made", bound="Dataset")


def new_uid() -> str:
    """A UID made of a random UUID (PS3.5, B.2): it tells nothing and needs no registered root."""
    return f"2.25.{uuid.uuid4().int}"


def device_uid(report: Report) -> str:
    """The same for everything that one bundle says."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, report.provenance.bundle.sha256).int}"


def use_line(report: Report) -> str:
    """The intended use, as far as a line of an object holds it."""
    return one_line(report.intended_use)


def object_identity(report: Report, kind: str, number: int = 1) -> dict[str, Any]:
    """Arguments of highdicom's constructors that say which object of which series this is."""
    return {
        "series_instance_uid": new_uid(),
        "series_number": SERIES[kind],
        "sop_instance_uid": new_uid(),
        "instance_number": number,
        "manufacturer": MAKER,
        "manufacturer_model_name": one_line(report.provenance.bundle.name),
        "software_versions": report.provenance.versions["pathgene-rt"],
        "device_serial_number": report.provenance.bundle.sha256,
        "series_description": use_line(report),
    }


def algorithm_parameters(report: Report, head: str) -> list[str]:
    """What tells one run of a model from another: hashes, engine and scale."""
    provenance = report.provenance
    engine = provenance.encoder
    return [
        f"head: {head}",
        f"bundle sha256: {provenance.bundle.sha256}",
        f"encoder sha256: {provenance.bundle.encoder_sha256}",
        *([] if provenance.site is None else [f"site profile sha256: {provenance.site.sha256}"]),
        f"engine: {engine.backend} {engine.version} {engine.precision}",
        f"tiles: {provenance.tiles} of {provenance.tile_px} px at {provenance.mpp:g} um/px",
    ]


def algorithm(report: Report, head: str) -> AlgorithmIdentification:
    """TID 4019 of a head."""
    from highdicom.sr import AlgorithmIdentification
    from pydicom.sr.codedict import codes

    return AlgorithmIdentification(
        name=f"{report.provenance.bundle.name}: {head}",
        version=report.provenance.bundle.version,
        parameters=algorithm_parameters(report, head),
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MAKER,
    )


def finished(dataset: Made) -> Made:
    """``dataset`` with what all objects need beside what highdicom writes. In UTF-8: a bundle names
    its classes in any language, whatever the slide's character set is."""
    declare_schemes(dataset)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset
