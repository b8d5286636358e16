"""Label tables: one slide a row, one column a task."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason

_SLIDE, _PATH, _CASE, _FOLD = "slide_id", "path", "case_id", "Fold"
_FILE_SUFFIXES = (".pt", ".h5", ".hdf5", ".npy", ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".dcm")
_NO_LABEL = ("", "na", "n/a", "nan")
_NEGATIVE = ("wild type", "wild-type", "wildtype", "wt", "negative", "neg", "absent", "low", "no")
"""Names of the class that goes first, so that the last of two is what the task looks for."""

_SHOWN = 4


@dataclass(frozen=True)
class LabelRow:
    """A slide, its case (patient) and its labels by column; empty ones are left out. ``split`` is
    its cell in the column of the given split, if one was asked for."""

    slide_id: str
    case_id: str
    labels: dict[str, str]
    split: str = ""


@dataclass(frozen=True)
class LabelTable:
    """The rows of ``path``, its task columns, and ``notes`` on how it was read."""

    path: Path
    tasks: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    notes: tuple[str, ...]


def read_labels(path: Path, case_pattern: str, split: str | None = None) -> LabelTable:
    """Read a CSV with slide_id, case_id and one column a task, or PathGene's path,label[,Fold].

    Paths may have backslashes; of a path the file name without its ending is the slide id. A byte
    order mark is dropped. Without case_id, the case is what ``case_pattern`` matches at the start
    of the slide id, else the slide itself. ``split`` names the column of a given split. PathGene's
    Fold is not used otherwise: in its files the slides of one patient lie in several folds.

    Raises :class:`UsageError` if the file cannot be read, lacks the slide column or that of the
    split, has no task column or no row, or lists a slide twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            records = list(reader)
    except OSError as error:
        raise UsageError(f"cannot read the labels {path}: {reason(error)}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV in UTF-8: {error}") from error
    slide_column = next((name for name in (_SLIDE, _PATH) if name in columns), None)
    if slide_column is None:
        raise UsageError(
            f"{path} has no column {_SLIDE} or {_PATH}; its columns are {listed(columns)}"
        )
    if split is not None and split not in columns:
        raise UsageError(
            f"{path} has no column {split} for the split; its columns are {listed(columns)}"
        )
    tasks = tuple(name for name in columns if name not in (_SLIDE, _PATH, _CASE, _FOLD, split, ""))
    if not (tasks or split) or not records:
        lacking = "row" if tasks else "task column"
        raise UsageError(f"{path} has no {lacking}; give {_SLIDE},{_CASE} and a column a task")
    rows = tuple(
        _row(path, line, record, slide_column, tasks, case_pattern, split)
        for line, record in enumerate(records, 2)
    )
    _require_unique(path, rows)
    return LabelTable(path, tasks, rows, tuple(_notes(path, columns, rows, split)))


def order_classes(found: set[str]) -> tuple[str, ...]:
    """Classes in the order of the logits: numbers by value, names by the alphabet, but a name that
    says absence ("wild type", "negative", ...) before all others."""
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in found):
        return tuple(sorted(found, key=float))
    return tuple(sorted(found, key=lambda name: (name.casefold() not in _NEGATIVE, name)))


def _row(
    path: Path,
    line: int,
    record: dict[str, str | None],
    slide_column: str,
    tasks: tuple[str, ...],
    case_pattern: str,
    split: str | None,
) -> LabelRow:
    values = {name: (record.get(name) or "").strip() for name in (slide_column, _CASE, *tasks)}
    slide_id = slide_id_of(values[slide_column])
    if not slide_id:
        raise UsageError(f"{path} line {line}: the column {slide_column} is empty; name the slide")
    case_id = values[_CASE]
    if _CASE in record and not case_id:
        raise UsageError(f"{path} line {line}: slide {slide_id} has no {_CASE}; fill it in")
    labels = {task: values[task] for task in tasks if values[task].casefold() not in _NO_LABEL}
    part = (record.get(split) or "").strip() if split else ""
    return LabelRow(slide_id, case_id or _case_of(slide_id, case_pattern), labels, part)


def slide_id_of(entry: str) -> str:
    """The slide id of a table's entry: an id, a file name, or a path of either system."""
    name = PurePosixPath(entry.replace("\\", "/")).name
    ending = next((end for end in _FILE_SUFFIXES if name.casefold().endswith(end)), "")
    return name[: len(name) - len(ending)]


def _case_of(slide_id: str, case_pattern: str) -> str:
    match = re.match(case_pattern, slide_id)
    if match is None:
        return slide_id
    return match.group(1 if match.re.groups else 0) or slide_id


def _require_unique(path: Path, rows: tuple[LabelRow, ...]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.slide_id in seen:
            raise UsageError(f"{path} lists the slide {row.slide_id} twice; keep one row a slide")
        seen.add(row.slide_id)


def _notes(
    path: Path, columns: list[str], rows: tuple[LabelRow, ...], split: str | None
) -> list[str]:
    notes = []
    if _FOLD in columns and split != _FOLD:
        notes.append(f"{path.name}: the column {_FOLD} is not used; cases are split as wholes")
    alone = sum(row.case_id == row.slide_id for row in rows)
    if _CASE not in columns and alone:
        notes.append(
            f"{path.name}: {alone} of {len(rows)} slides have no known case and count as one each; "
            f"add a column {_CASE} or set data.case_pattern if patients have several slides"
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    more = ", ..." if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
