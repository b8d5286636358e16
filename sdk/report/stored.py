"""A report read back from its folder, of this schema version or an earlier one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pathgene_rt.errors import FileAccessError, OutputError
from pathgene_rt.extraction.earlier import NOTHING, Earlier, compared
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.features.hdf5 import is_complete_features
from pathgene_rt.files import reason, sha256
from pathgene_rt.heads.agreement import NEEDS_ANOTHER
from pathgene_rt.report.shown_call import is_withheld

REPORT_FILE = "report.json"

READABLE_VERSIONS = (1, 2, 3)
"""What is read here is alike in them; version 1 called ``quality.tissue_regions`` ``pieces``."""


@dataclass(frozen=True, kw_only=True)
class StoredReport:
    """What later runs need to know of a ``report.json``.

    ``encoder`` is the engine and precision of the features ("openvino float32"); ``files`` are the
    names of the files that the report lists, by what they are; ``partial`` says that a budget ended
    the slide, ``made_from`` which slide and options it is of, None where an older version does not
    say it. ``sha256`` is the file's, in hex digits; ``withheld`` are the heads whose answers are,
    but for those that only want another head's.
    """

    slide_id: str
    tiles: int
    bundle_sha256: str
    encoder: str
    files: dict[str, str]
    partial: bool
    made_from: dict[str, Any] | None
    sha256: str
    withheld: frozenset[str] = frozenset()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The report in ``folder``. Raises as :func:`read_document`."""
        path = folder / REPORT_FILE
        document, digest = read_document(folder)
        try:
            provenance = document["provenance"]
            engine = provenance["engines"]["encoder"]
            return cls(
                slide_id=str(document["slide"]),
                tiles=int(provenance["tiles"]["count"]),
                bundle_sha256=str(provenance["bundle"]["sha256"]),
                encoder=f"{engine['backend']} {engine['precision']}",
                files={str(what): str(name) for what, name in document["files"].items()},
                partial=document["partial"] is not None,
                made_from=provenance.get("made_from"),
                sha256=digest,
                withheld=frozenset(
                    str(one["head"]) for one in document["predictions"] if _lacks(one)
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{path} is no report; predict its slide again") from error


def read_document(folder: Path) -> tuple[dict[str, Any], str]:
    """(the ``report.json`` in ``folder``, its SHA-256). Raises OutputError, also for an unknown
    schema version; FileAccessError where it is there and cannot be read now."""
    path = folder / REPORT_FILE
    try:
        raw = path.read_bytes()
        document = json.loads(raw)
        schema = document["schema_version"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(f"there is no {path}; predict its slide first") from error
    except OSError as error:
        raise FileAccessError(
            f"{path}: cannot be read now ({reason(error)}); try again when it can"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{path} is no report; predict its slide again") from error
    if schema not in READABLE_VERSIONS:
        raise OutputError(
            f"{path} has schema version {schema}, which this version does not know; "
            "predict its slide again"
        )
    return document, sha256(raw)


def _lacks(prediction: Mapping[str, Any]) -> bool:
    """Whether an answer is withheld for what the slide lacks."""
    codes = {reason["code"] for reason in prediction.get("reasons", ())}
    return is_withheld(prediction) and codes != {NEEDS_ANOTHER}


def is_complete_report(
    folder: Path, bundle_sha256: str, *, features: bool = False, partial: bool = False
) -> bool:
    """Whether ``folder`` holds a whole report made with that bundle, and all files it lists; with
    ``features``, the features are among them; with ``partial``, it may be of part of the tiles.
    Raises FileAccessError.
    """
    try:
        report = StoredReport.read(folder)
    except OutputError:
        return False
    return (
        report.bundle_sha256 == bundle_sha256
        and all((folder / name).is_file() for name in report.files.values())
        and ("features" in report.files or not features)
        and (partial or not report.partial)
    )


def earlier_report(
    folder: Path,
    bundle_sha256: str,
    wanted: Callable[[], ResultIdentity],
    *,
    features: bool = False,
    partial: bool = False,
) -> Earlier:
    """Whether the report in ``folder`` is complete, as :func:`is_complete_report` says it, and of
    the slide and options that ``wanted`` names; with ``features``, these are read and must be
    whole. Raises FileAccessError, SlideOpenError.
    """
    if not is_complete_report(folder, bundle_sha256, partial=partial):
        return NOTHING
    report = StoredReport.read(folder)
    earlier = compared(wanted(), report.made_from, partial=report.partial)
    if not earlier.serves or not features:
        return earlier
    if "features" not in report.files:
        return Earlier(
            serves=False, note="done before without features; encoding it again for them"
        )
    if not is_complete_features(folder / report.files["features"]):
        return Earlier(serves=False, note="done before, but its features are damaged: again")
    return earlier
