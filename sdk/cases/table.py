"""Which slides belong to which case (patient, specimen), as a CSV says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pathgene_rt.errors import UsageError
from pathgene_rt.files import is_safe_name
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.slide_ids import TABLE_FILE, slide_id_of
from pathgene_rt.tables import find_id, hint, is_missing, read_table, require_distinct

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
    path: Path,
    slides: Sequence[Path],
    pseudonyms: Pseudonyms | None = None,
    ids: Mapping[Path, str] = MappingProxyType({}),
) -> CaseTable:
    """Read a table (:func:`~pathgene_rt.tables.read_table`) with the columns ``slide`` and ``case``
    about the given ``slides``.

    A slide is named by its file name, with or without its ending, or by the id that it has in
    ``ids``; other columns are ignored. Cases of which no slide is given are left out, and slides
    without a case belong to none; ``notes`` say so, by ``pseudonyms`` if there are any, as errors
    do.

    Raises UsageError if the file cannot be read, lacks a column, a row lacks its slide or case, a
    slide is listed twice, a name is that of several slides, a case has slides that are not given, a
    case id is no folder name, or no case is left.
    """

    def shown(name: str) -> str:
        for slide in given.get(name, ()) if pseudonyms is not None else ():
            return shown_id(_id_of(slide, ids), pseudonyms)
        return shown_id(name, pseudonyms)

    given: dict[str, set[Path]] = {}
    for one in slides:
        for name in {one.stem, one.name, slide_id_of(one), _id_of(one, ids)}:
            given.setdefault(name, set()).add(one)
    members: dict[str, list[Path]] = {}
    missing: dict[str, list[tuple[int, str]]] = {}
    lines: dict[str | Path, int] = {}
    for line, name, case_id in _read_rows(path):
        known = find_id(name, given)
        named = set() if known is None else given[known]
        if len(named) > 1:
            raise UsageError(
                f"{path}, line {line}: {len(named)} of the slides are called {shown(name)}; name "
                f"one by its id, as {TABLE_FILE} beside the results has it"
            )
        slide = next(iter(named), None)
        earlier = lines.setdefault(slide or name, line)
        if earlier != line:
            raise UsageError(
                f"{path}: slide {shown(name)} is listed twice, in lines {earlier} and {line}; "
                "remove one of them"
            )
        if slide is None:
            missing.setdefault(case_id, []).append((line, name))
        else:
            members.setdefault(case_id, []).append(slide)

    def near(name: str) -> str:
        return "" if pseudonyms else hint(name, [slide.stem for slide in slides])

    for case_id in members:
        if case_id in missing:
            line, name = missing[case_id][0]
            raise UsageError(
                f"{path}: case {shown_id(case_id, pseudonyms)} has the slide {shown(name)}, which "
                f"is not given (line {line}{near(name)}); give all slides of a case, or remove "
                "the row"
            )
    check_case_ids(path, members, pseudonyms)
    if not members:
        names = [name for rows in missing.values() for _, name in rows]
        tip = next(filter(None, map(near, names)), "")
        example = f" ({shown(names[0])}{tip})" if names else ""
        raise UsageError(
            f"{path}: names none of the {len(slides)} slides{example}; give those of its cases"
        )
    notes = []
    if missing:
        example = shown_id(next(iter(missing)), pseudonyms)
        notes.append(f"{path}: no slide given of {len(missing)} cases, e.g. {example}; left out")
    alone = [slide.name for slide in slides if slide not in lines]
    if alone:
        notes.append(f"{path}: no case for {len(alone)} of the slides, e.g. {shown(alone[0])}")
    cases = (Case(case_id, tuple(found)) for case_id, found in members.items())
    return CaseTable(tuple(cases), tuple(notes))


def _id_of(slide: Path, ids: Mapping[Path, str]) -> str:
    return ids.get(slide) or slide_id_of(slide)


def _read_rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, slide, case) of each row."""
    table = read_table(path, "the cases")
    slide_column, case_column = table.column(*_SLIDE), table.column(*_CASE)
    if slide_column is None or case_column is None:
        raise UsageError(
            f"{path} needs the columns slide and case; its columns are "
            f"{', '.join(table.columns) or '-'}"
        )
    rows = []
    for row in table.rows:
        name, case_id = row.cells[slide_column], row.cells[case_column]
        if is_missing(name) or is_missing(case_id):
            lacking = "slide" if is_missing(name) else "case"
            raise UsageError(
                f"{path}: line {row.line} has no {lacking}; fill it in or remove the line"
            )
        rows.append((row.line, name, case_id))
    return rows


def check_case_ids(
    path: Path, case_ids: Iterable[str], pseudonyms: Pseudonyms | None = None
) -> None:
    """Raise UsageError if a case of the table ``path`` cannot be the folder of its results, on
    Windows too, or two cases are written so alike that they may be one."""
    for case_id in case_ids:
        if "/" in case_id or not is_safe_name(case_id):
            name = shown_id(case_id, pseudonyms)
            raise UsageError(f"{path}: case {name!r} cannot be a folder's name; rename it")
    require_distinct(path, "case", case_ids, lambda case_id: shown_id(case_id, pseudonyms))
