"""What is watched of each slide: read from the reports that ``predict`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pathgene_rt.errors import FileAccessError, OutputError, UsageError
from pathgene_rt.pseudonyms import Pseudonyms, is_pseudonym, shown_id
from pathgene_rt.report.shown_call import is_withheld
from pathgene_rt.report.stored import REPORT_FILE, read_document
from pathgene_rt.tables import is_missing, read_table, slide_id_of

SHARES = ("withheld", "outside", "warned", "partial")
NUMBERS = ("unusable", "out_of_focus", "tissue_area_mm2", "domain_score", "tiles_per_second")
OF_HEADS = ("positive", "indeterminate", "probability")
"""Measures by name; those of heads are called ``<measure> <head>``."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One slide's: ``yes_no`` and ``numbers`` by measure, each where the report says it."""

    slide_id: str
    created: datetime
    scanner: str
    bundle: str
    yes_no: Mapping[str, bool]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Observed:
    """By time; ``unread`` are the folders whose report cannot be read, and why."""

    slides: tuple[Observation, ...]
    unread: Mapping[str, str]


def observe(
    folder: Path,
    scanners: Mapping[str, str] | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> Observed:
    """The reports in the folders of ``folder``. Scanners are those of ``scanners`` by slide, else
    what the reports say of them. With ``pseudonyms`` no slide is named: reports may have been made
    under the same ones, or name slides. Raises UsageError if there is no report."""
    found, unread = [], {}
    named = dict(scanners or {})
    if pseudonyms is not None:
        named |= {pseudonyms.of(slide): scanner for slide, scanner in named.items()}
    try:
        folders = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"cannot list {folder}: {error.strerror}; give the folder that predict wrote"
        ) from error
    for item in folders:
        if not (item / REPORT_FILE).is_file():
            continue
        try:
            found.append(_observation(read_document(item)[0], named, pseudonyms))
        except (OutputError, FileAccessError) as error:
            why = str(error) if pseudonyms is None else pseudonyms.conceal(str(error), item)
            unread[_shown(item.name, pseudonyms)] = why
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            unread[_shown(item.name, pseudonyms)] = f"lacks what a report has ({error})"
    if not found:
        raise UsageError(f"{folder} has no report; give the folder that predict wrote")
    found.sort(key=lambda one: (one.created, one.slide_id))
    return Observed(tuple(found), unread)


def read_scanners(path: Path) -> dict[str, str]:
    """Scanners by slide, of a table with the columns slide (or slide_id) and scanner. Raises
    UsageError."""
    table = read_table(path, "the scanners")
    slide, scanner = table.column("slide_id", "slide"), table.column("scanner")
    if slide is None or scanner is None:
        raise UsageError(
            f"{path} needs the columns slide_id and scanner; its columns are "
            f"{', '.join(table.columns) or '-'}"
        )
    return {
        slide_id_of(row.cells[slide]): row.cells[scanner]
        for row in table.rows
        if not is_missing(row.cells[scanner])
    }


def _shown(name: str, pseudonyms: Pseudonyms | None) -> str:
    """``name`` if it may be told, or is a pseudonym already."""
    return name if is_pseudonym(name) else shown_id(name, pseudonyms)


def _observation(
    document: Mapping[str, Any], scanners: Mapping[str, str], pseudonyms: Pseudonyms | None
) -> Observation:
    slide_id = str(document["slide"])
    provenance, quality = document["provenance"], document["quality"]
    predictions: Sequence[Mapping[str, Any]] = document["predictions"]
    domain = document.get("domain")
    yes_no = {
        "withheld": any(is_withheld(one) for one in predictions),
        "warned": bool(document["warnings"]),
        "partial": document["partial"] is not None,
    }
    numbers = {
        "unusable": float(quality.get("unusable_tile_share") or 0.0),
        "out_of_focus": float(quality.get("out_of_focus_tile_share") or 0.0),
        "tiles_per_second": float(provenance["tiles_per_second"]),
    }
    if quality.get("tissue_area_mm2") is not None:
        numbers["tissue_area_mm2"] = float(quality["tissue_area_mm2"])
    if domain is not None:
        yes_no["outside"] = domain["verdict"] == "outside"
        numbers["domain_score"] = float(domain["score"])
    for one in predictions:
        if is_withheld(one):
            continue
        head = one["head"]
        if one.get("zones") is not None:
            yes_no[f"positive {head}"] = one["call"] == "positive"
            yes_no[f"indeterminate {head}"] = one["call"] == "indeterminate"
        elif len(one["classes"]) <= 2:
            yes_no[f"positive {head}"] = len(one["classes"]) - 1 in one["called"]
        if len(one["classes"]) <= 2:
            numbers[f"probability {head}"] = float(one["probabilities"][-1])
    slide = provenance["slide"]
    stated = f"{slide.get('vendor') or slide['reader']}, {slide['mpp']:.2f} um/px"
    return Observation(
        slide_id=_shown(slide_id, pseudonyms),
        created=datetime.fromisoformat(document["created"]),
        scanner=scanners.get(slide_id, stated),
        bundle=str(provenance["bundle"]["sha256"]),
        yes_no=yes_no,
        numbers=numbers,
    )
