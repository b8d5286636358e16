"""What a user states of a slide that is no DICOM: whose it is, in which study, of which specimen.

A JSON file as docs/dicom.md describes it, e.g. made from a worklist's entry. Dates and times are
written as DICOM does (YYYYMMDD, HHMMSS). An empty text means that it is not known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason
from pathgene_rt.slide_ids import context_file

_STRICT = ConfigDict(extra="forbid", strict=False)

Uid = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)(\.(0|[1-9]\d*))+$", max_length=64)]
LongText = Annotated[str, Field(max_length=64, pattern=r"^[^\\\x00-\x1f]*$")]
ShortText = Annotated[str, Field(max_length=16, pattern=r"^[^\\\x00-\x1f]*$")]
Name = Annotated[str, Field(max_length=194, pattern=r"^[^\\\x00-\x1f]*$")]
Stated = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]*\S[^\\\x00-\x1f]*$")
]
Date = Annotated[str, Field(pattern=r"^(\d{8})?$")]
Time = Annotated[str, Field(pattern=r"^(\d{6}(\.\d{1,6})?)?$")]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PatientContext:
    """``name`` as DICOM writes it: family^given."""

    id: Stated
    name: Name = ""
    birth_date: Date = ""
    sex: Literal["M", "F", "O", ""] = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StudyContext:
    """The study that the slide's pictures are kept in."""

    instance_uid: Uid
    id: ShortText = ""
    date: Date = ""
    time: Time = ""
    accession_number: ShortText = ""
    referring_physician: Name = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SpecimenContext:
    """The glass slide (``container_id``: its barcode) and what is on it."""

    container_id: Stated
    id: Stated
    uid: Uid
    description: LongText = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ImageContext:
    """The archive's picture of the slide in full resolution, which maps and annotations lie over.

    ``origin_mm`` (x, y) is where the centre of its first pixel lies, ``orientation`` the direction
    cosines of its rows, then of its columns, ``pixel_spacing_mm`` between rows, then columns.
    """

    sop_instance_uid: Uid
    series_instance_uid: Uid
    frame_of_reference_uid: Uid
    origin_mm: tuple[FiniteFloat, FiniteFloat]
    orientation: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    pixel_spacing_mm: tuple[
        Annotated[FiniteFloat, Field(gt=0)], Annotated[FiniteFloat, Field(gt=0)]
    ]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DicomContext:
    """Of one slide. Without ``image`` there are no objects that lie over one."""

    patient: PatientContext
    study: StudyContext
    specimen: SpecimenContext
    image: ImageContext | None = None


_ADAPTER = TypeAdapter(DicomContext)


def read_context(path: Path, slide_id: str) -> DicomContext:
    """The context of the slide ``slide_id``: the file ``path``, or the one of its name in the
    folder ``path``. Raises UsageError that names what is missing or wrong.
    """
    file = context_file(path, slide_id)
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot read the DICOM context {file}: {reason(error)}; give --dicom-context FILE.json"
            " (docs/dicom.md)"
        ) from error
    except ValidationError as error:
        raise UsageError(f"{file}: {_told(error)} (docs/dicom.md describes it)") from error


def _told(error: ValidationError) -> str:
    """What is missing first, all of it, for that is what a user has to find out."""
    problems = error.errors(include_url=False, include_input=False)
    missing = [".".join(map(str, one["loc"])) for one in problems if one["type"] == "missing"]
    told = (
        [f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    )
    for one in problems:
        if one["type"] != "missing":
            told.append(f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}")
    return "; ".join(told)
