"""Which slides belong to which case (patient, specimen), as a CSV says it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.files import is_safe_name, reason
from pathgene_rt.pseudonyms import Pseudonyms, shown_id

_SLIDE, _CASE = ("slide", "slide_id"), ("case", "case_id")
"""Names of the two columns: ours, and those of the label tables that heads are trained with."""


@dataclass(frozen=True)
class Case:
    """A case and its slides, in the order of the CSV."""

    case_id: str
    slides: tuple[Path, ...]


@dataclass(frozen=True)
class CaseTable:
    """The cases of which all slides are given, and what a user should know about the others."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...]


def read_cases(
    path: Path, slides: Sequence[Path], pseudonyms: Pseudonyms | None = None
) -> CaseTable:
    """Read a CSV with the columns ``slide`` and ``case`` about the given ``slides``.

    A slide is named by its file name, with or without its ending; other columns are ignored, a byte
    order mark is dropped. Cases of which no slide is given are left out, and slides without a case
    belong to none; ``notes`` say so, by ``pseudonyms`` if there are any, as errors do.

    Raises UsageError if the file cannot be read, lacks a column, a row lacks its slide or case, a
    slide is listed twice, a case has slides that are not given, a case id is no folder name, or no
    case is left.
    """

    def shown(name: str) -> str:
        return shown_id(given[name].stem if pseudonyms and name in given else name, pseudonyms)

    given = {slide.stem: slide for slide in slides} | {slide.name: slide for slide in slides}
    members: dict[str, list[Path]] = {}
    missing: dict[str, list[str]] = {}
    lines: dict[str | Path, int] = {}
    for line, name, case_id in _read_rows(path):
        slide = given.get(name)
        earlier = lines.setdefault(slide or name, line)
        if earlier != line:
            raise UsageError(
                f"{path}: slide {shown(name)} is listed twice, in lines {earlier} and {line}; "
                "remove one of them"
            )
        if slide is None:
            missing.setdefault(case_id, []).append(name)
        else:
            members.setdefault(case_id, []).append(slide)
    for case_id in members:
        if case_id in missing:
            raise UsageError(
                f"{path}: case {shown_id(case_id, pseudonyms)} has the slide "
                f"{shown(missing[case_id][0])}, which is not given; give all slides of a case, or "
                "remove the row"
            )
    _check_ids(path, members, pseudonyms)
    if not members:
        raise UsageError(f"{path}: names none of the {len(slides)} slides; give those of its cases")
    notes = []
    if missing:
        example = shown_id(next(iter(missing)), pseudonyms)
        notes.append(f"{path}: no slide given of {len(missing)} cases, e.g. {example}; left out")
    alone = [slide.name for slide in slides if slide not in lines]
    if alone:
        notes.append(f"{path}: no case for {len(alone)} of the slides, e.g. {shown(alone[0])}")
    cases = (Case(case_id, tuple(found)) for case_id, found in members.items())
    return CaseTable(tuple(cases), tuple(notes))


def _read_rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, slide, case) of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            records = [(reader.line_num, record) for record in reader]
    except OSError as error:
        raise UsageError(f"cannot read the cases {path}: {reason(error)}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV in UTF-8: {error}") from error
    slide_column, case_column = (
        next((name for name in names if name in columns), None) for names in (_SLIDE, _CASE)
    )
    if slide_column is None or case_column is None:
        raise UsageError(
            f"{path} needs the columns slide and case; its columns are {', '.join(columns) or '-'}"
        )
    rows = []
    for line, record in records:
        name, case_id = ((record[key] or "").strip() for key in (slide_column, case_column))
        if not name or not case_id:
            lacking = "case" if name else "slide"
            raise UsageError(f"{path}: line {line} has no {lacking}; fill it in or remove the line")
        rows.append((line, name, case_id))
    return rows


def _check_ids(path: Path, case_ids: dict[str, list[Path]], pseudonyms: Pseudonyms | None) -> None:
    """A case's results lie in a folder of its name, on Windows too."""
    by_folder: dict[str, str] = {}
    for case_id in case_ids:
        if "/" in case_id or not is_safe_name(case_id):
            name = shown_id(case_id, pseudonyms)
            raise UsageError(f"{path}: case {name!r} cannot be a folder's name; rename it")
        other = by_folder.setdefault(case_id.casefold(), case_id)
        if other != case_id:
            raise UsageError(
                f"{path}: cases {shown_id(other, pseudonyms)} and {shown_id(case_id, pseudonyms)} "
                "differ in upper and lower case only; rename one, or write them alike if they are "
                "one case"
            )
