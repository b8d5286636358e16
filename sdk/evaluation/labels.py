"""Label tables: one slide a row, one column a task."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.heads.prediction import NO_CALL
from pathgene_rt.tables import (
    Table,
    TableRow,
    class_form,
    class_names,
    is_missing,
    read_table,
    require_distinct,
    slide_id_of,
)

_SLIDE, _PATH, _CASE, _FOLD = "slide_id", "path", "case_id", "Fold"
_CENTRES = ("centre", "center")
_TCGA_SITE = re.compile(r"TCGA-(\w\w)-\w{4}")
"""The code of the site that a tissue comes from is part of the barcode."""

_SHORT_SLIDE, _SHORT_CASE = "slide", "case"
"""As the tables of ``predict --cases`` name these columns."""
_NEGATIVE = ("wild type", "wild-type", "wildtype", "wt", "negative", "neg", "absent", "low", "no")
"""Names of the class that goes first, so that the last of two is what the task looks for."""

JOINT = ";"
"""What stands between the classes of a slide that has several; the word NO_CALL says that it has
none (an empty cell says that nobody looked)."""

_SHOWN = 4


@dataclass(frozen=True)
class LabelRow:
    """A slide, its case (patient) and its labels by column; empty ones are left out. ``split`` is
    its cell in the column of the given split, if one was asked for; ``centre`` is where it comes
    from, as the column ``centre`` or the barcode of TCGA says; empty if neither does."""

    slide_id: str
    case_id: str
    labels: dict[str, str]
    split: str = ""
    centre: str = ""


@dataclass(frozen=True)
class LabelTable:
    """The rows of ``path``, its task columns, and ``notes`` on how it was read."""

    path: Path
    tasks: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...]


def read_labels(
    path: Path, case_pattern: str, split: str | None = None, shown: Callable[[str], str] = str
) -> LabelTable:
    """Read a table (:func:`~pathgene_rt.tables.read_table`) with slide_id, case_id and one column a
    task, or PathGene's path,label[,Fold].

    Paths may have backslashes; of a path the file name without its ending is the slide id. Cells
    that say "no value" in some program's way are no labels; those that differ in capitals, blanks
    or a decimal point are one class (``notes`` say so). Without case_id, the case is what
    ``case_pattern`` matches at the start of the slide id, else the slide itself. ``split`` names
    the column of a given split. PathGene's Fold is not used otherwise: in its files the slides of
    one patient lie in several folds. ``shown`` is what messages call a slide or case.

    Raises :class:`UsageError` if the file cannot be read, lacks the slide column or that of the
    split, has no task column or no row, lists a slide twice, or has case ids that differ in
    capitals or leading zeros only.
    """
    table = read_table(path, "the labels")
    slide_column = table.column(_SLIDE, _SHORT_SLIDE, _PATH)
    if slide_column is None:
        raise UsageError(
            f"{path} has no column {_SLIDE} or {_PATH}; its columns are {listed(table.columns)}"
        )
    split_column = None if split is None else table.column(split)
    if split is not None and split_column is None:
        raise UsageError(
            f"{path} has no column {split} for the split; its columns are {listed(table.columns)}"
        )
    case_column, fold_column = table.column(_CASE, _SHORT_CASE), table.column(_FOLD)
    centre_column = table.column(*_CENTRES)
    others = {slide_column, table.column(_PATH), case_column, fold_column, split_column}
    others.add(centre_column)
    tasks = tuple(name for name in table.columns if name not in others)
    if not (tasks or split) or not table.rows:
        lacking = "row" if tasks else "task column"
        raise UsageError(f"{path} has no {lacking}; give {_SLIDE},{_CASE} and a column a task")
    classes = {task: class_names(_named(row.cells[task] for row in table.rows)) for task in tasks}
    rows = tuple(
        _row(
            path,
            row,
            slide_column,
            case_column,
            classes,
            case_pattern,
            split_column,
            centre_column,
            shown,
        )
        for row in table.rows
    )
    _require_unique(path, table, rows, shown)
    require_distinct(path, "case", (row.case_id for row in rows), shown)
    notes = [*_merged(table, classes), *_notes(path, case_column, fold_column, rows, split_column)]
    return LabelTable(path, tasks, rows, tuple(notes))


def order_classes(found: set[str]) -> tuple[str, ...]:
    """Classes in the order of the logits: numbers by value, names by the alphabet, but a name that
    says absence ("wild type", "negative", ...) before all others."""
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in found):
        return tuple(sorted(found, key=lambda name: (float(name), name)))
    return tuple(sorted(found, key=lambda name: (name.casefold() not in _NEGATIVE, name)))


def spelled(label: str, classes: Sequence[str]) -> str:
    """``label`` as ``classes`` write it, if it is one of them."""
    forms = {class_form(name): name for name in classes}
    return forms.get(class_form(label), label)


def negative_name(name: str) -> bool:
    """Whether ``name`` says that what a task looks for is absent."""
    return name.casefold() in _NEGATIVE


def _named(cells: Iterable[str]) -> Iterator[str]:
    """The classes that ``cells`` name; a cell may name several, joined by ";"."""
    for cell in cells:
        if not _is_unlabelled(cell):
            yield from filter(None, (part.strip() for part in cell.split(JOINT)))


def _is_unlabelled(cell: str) -> bool:
    """ "none" says that there is no value, or where cells name several classes that none of them
    holds: which of the two it is, the task knows."""
    return is_missing(cell) and cell.casefold() != NO_CALL


def _row(
    path: Path,
    row: TableRow,
    slide_column: str,
    case_column: str | None,
    classes: dict[str, dict[str, str]],
    case_pattern: str,
    split: str | None,
    centre: str | None,
    shown: Callable[[str], str],
) -> LabelRow:
    entry = row.cells[slide_column]
    if is_missing(entry):
        raise UsageError(
            f"{path} line {row.line}: the column {slide_column} is empty; name the slide"
        )
    slide_id = slide_id_of(entry)
    case_id = _case_of(slide_id, case_pattern) if case_column is None else row.cells[case_column]
    if is_missing(case_id):
        raise UsageError(
            f"{path} line {row.line}: slide {shown(slide_id)} has no {_CASE}; fill it in"
        )
    labels = {
        task: JOINT.join(names[class_form(part)] for part in _named([row.cells[task]]))
        for task, names in classes.items()
        if not _is_unlabelled(row.cells[task])
    }
    return LabelRow(
        slide_id,
        case_id,
        labels,
        row.cells[split] if split else "",
        _centre_of(slide_id, row.cells[centre] if centre else ""),
    )


def _centre_of(slide_id: str, stated: str) -> str:
    barcode = _TCGA_SITE.match(slide_id)
    if not is_missing(stated):
        return stated
    return "" if barcode is None else f"TCGA-{barcode[1]}"


def _merged(table: Table, classes: dict[str, dict[str, str]]) -> Iterator[str]:
    """Which spellings count as one class, for each task that has such."""
    for task, names in classes.items():
        spellings: dict[str, set[str]] = {}
        for part in _named(row.cells[task] for row in table.rows):
            spellings.setdefault(class_form(part), set()).add(part)
        for form, found in spellings.items():
            if len(found) > 1:
                yield (
                    f"{table.path.name}: column {task}: {listed(sorted(found))} count as one "
                    f"class, {names[form]}"
                )


def _case_of(slide_id: str, case_pattern: str) -> str:
    match = re.match(case_pattern, slide_id)
    if match is None:
        return slide_id
    return match.group(1 if match.re.groups else 0) or slide_id


def _require_unique(
    path: Path, table: Table, rows: tuple[LabelRow, ...], shown: Callable[[str], str]
) -> None:
    seen: dict[str, int] = {}
    for row, read in zip(rows, table.rows, strict=True):
        earlier = seen.setdefault(row.slide_id, read.line)
        if earlier != read.line:
            raise UsageError(
                f"{path} lists the slide {shown(row.slide_id)} twice, in lines {earlier} and "
                f"{read.line}; keep one row a slide"
            )


def _notes(
    path: Path,
    case_column: str | None,
    fold_column: str | None,
    rows: tuple[LabelRow, ...],
    split: str | None,
) -> list[str]:
    notes = []
    if fold_column is not None and split != fold_column:
        notes.append(f"{path.name}: the column {_FOLD} is not used; cases are split as wholes")
    alone = sum(row.case_id == row.slide_id for row in rows)
    if case_column is None and alone:
        notes.append(
            f"{path.name}: {alone} of {len(rows)} slides have no known case and count as one each; "
            f"add a column {_CASE} or set data.case_pattern if patients have several slides"
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    more = ", ..." if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
