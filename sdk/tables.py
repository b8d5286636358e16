"""Tables as spreadsheets, pandas and R write them: separators, missing values, ids and classes.

One reader for all tables that users give: labels to train with, cases to predict.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason

MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "-", "--", ".", "?", "unknown"}
    | {"not available", "[not available]", "not applicable", "[not applicable]"}
)
"""What stands for no value, in lower case: of Excel, pandas, R, SQL and the GDC."""

_TIFFS = ".svs .tif .tiff .scn .bif .svslide .ndpi"
_OTHERS = ".mrxs .vms .vmu .czi .dcm .isyntax .i2syntax .kfb .tmap"
ENDINGS = (".h5", ".hdf5", ".pt", ".npy", *_TIFFS.split(), *_OTHERS.split())
"""Of files that an entry may name in place of a slide's id."""

_DELIMITERS = ",;\t|"
_WORKBOOKS = {
    b"PK\x03\x04": "an Excel or LibreOffice workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
}
_UNNAMED = re.compile(r"(unnamed: ?\d+)?", re.IGNORECASE)
"""Columns of row numbers: R names them nothing, pandas "Unnamed: 0" when it reads its own."""


@dataclass(frozen=True)
class TableRow:
    """Cells by column, without the blanks around them, of the row that ends in ``line``."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """The file ``path``: ``columns`` that have a name, as it is written, and ``rows``, each with a
    cell for every column. Rows of nothing are left out."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def column(self, *names: str) -> str | None:
        """The first of ``names`` that is a column, whatever its capitals, blanks and underscores,
        as the table writes it."""
        written = {_header_form(column): column for column in self.columns}
        return next((written[form] for form in map(_header_form, names) if form in written), None)


def read_table(path: Path, what: str) -> Table:
    """Read a CSV of ``what`` ("the labels"): separated by comma, semicolon, tab or bar, in UTF-8 or
    UTF-16 with a byte order mark, quoted or not, with or without a column of row names.

    Raises UsageError if it cannot be read, is a workbook or another encoding, has two columns of
    one name, or a row with more cells than there are columns.
    """
    text = _text(path, what)
    delimiter = None
    if found := re.match(r"sep=(.)\r?\n", text):  # Excel's own way of telling
        delimiter, text = found[1], "\n" + text[found.end() :]
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader]
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV in UTF-8: line {reader.line_num}: {error}") from error
    filled = [(line, cells) for line, cells in records if any(cells)]
    header = filled[0][1] if filled else []
    body = filled[1:]
    if body and all(len(cells) == len(header) + 1 for _, cells in body):
        header = ["", *header]  # R's write.table has no name for its row names
    columns = tuple(name for name in header if not _UNNAMED.fullmatch(name))
    for name, count in Counter(map(_header_form, columns)).items():
        if count > 1:
            raise UsageError(f"{path} has {count} columns {name}; rename or remove all but one")
    rows = []
    for line, cells in body:
        if any(cells[len(header) :]):
            raise UsageError(
                f"{path}: line {line} has {len(cells)} cells for {len(header)} columns; put cells "
                f"that hold {delimiter!r} in double quotes"
            )
        padded = [*cells, *[""] * len(header)]
        named = {name: cell for name, cell in zip(header, padded, strict=False) if name in columns}
        rows.append(TableRow(line, named))
    return Table(path, columns, tuple(rows))


def is_missing(cell: str) -> bool:
    """Whether ``cell`` stands for no value."""
    return cell.casefold() in MISSING


def slide_id_of(entry: str) -> str:
    """The slide id of a table's entry: an id, a file name, or a path of either system."""
    name = PurePosixPath(entry.replace("\\", "/")).name
    ending = next((end for end in ENDINGS if name.casefold().endswith(end)), "")
    return name[: len(name) - len(ending)]


def find_id(entry: str, known: Collection[str], shown: Callable[[str], str] = str) -> str | None:
    """Which of the slide ids ``known`` an entry means, with or without its file's ending; .ome.tiff
    is two of them. ``shown`` is what ``known`` calls an id."""
    plain = slide_id_of(entry)
    names = (entry, plain, f"{plain}.ome", plain.removesuffix(".ome"))
    return next((name for name in map(shown, names) if name in known), None)


def hint(entry: str, known: Collection[str]) -> str:
    """The one of ``known`` that ``entry`` may be meant for, as words for the end of a message."""
    form = _id_form(entry)
    same = sorted(name for name in known if _id_form(name) == form)
    if same and same[0].casefold() != entry.casefold() and form.isdigit():
        return f"; is it {same[0]}, of which a spreadsheet made a number? Keep ids as text"
    near = same or difflib.get_close_matches(entry, sorted(known), n=1, cutoff=0.8)
    return f"; is it {near[0]}?" if near else ""


def require_distinct(
    path: Path, what: str, ids: Iterable[str], shown: Callable[[str], str] = str
) -> None:
    """Raise UsageError if two of ``ids`` differ only in capitals or in leading zeros: such are one
    ``what`` ("case") that was written in two ways, or cannot be two folders. ``shown`` is what the
    message calls an id."""
    by_form: dict[str, str] = {}
    for name in ids:
        other = by_form.setdefault(_id_form(name), name)
        if other != name:
            capitals = other.casefold() == name.casefold()
            how = "upper and lower case" if capitals else "leading zeros or a decimal point"
            raise UsageError(
                f"{path}: {what}s {shown(other)} and {shown(name)} differ in {how} only; write "
                f"them alike if they are one {what}, rename one if not"
            )


def class_form(cell: str) -> str:
    """What cells of one class have in common: 1, " 1" and 1.0; Mutated and mutated."""
    text = " ".join(unicodedata.normalize("NFKC", cell).split())
    if re.fullmatch(r"[+-]?\d+[.,]0+", text):  # pandas' integers beside missing values
        text = re.split("[.,]", text)[0]
    return text.casefold()


def class_names(cells: Iterable[str]) -> dict[str, str]:
    """By :func:`class_form`, what the classes among ``cells`` are called: as most cells write it,
    and of those written equally often the one with capitals first by the alphabet."""
    spellings: dict[str, Counter[str]] = {}
    for cell in cells:
        spellings.setdefault(class_form(cell), Counter())[" ".join(cell.split())] += 1
    names = {}
    for form, counts in spellings.items():
        name = min(counts, key=lambda spelling: (-counts[spelling], spelling))
        names[form] = form if re.fullmatch(r"[+-]?\d+", form) else name
    return names


def _id_form(name: str) -> str:
    number = re.fullmatch(r"0*(\d+)(\.0)?", name)
    return number[1] if number else name.casefold()


def _header_form(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _text(path: Path, what: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {reason(error)}") from error
    workbook = _WORKBOOKS.get(raw[:4])
    if workbook is not None:
        raise UsageError(f"{path} is {workbook}; save the sheet as CSV UTF-8 and give that")
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no CSV in UTF-8: byte {error.start} is of another encoding; save it as CSV "
            "UTF-8"
        ) from error
    if "\0" in text:
        raise UsageError(f"{path} is no CSV in UTF-8: it holds bytes of 0; save it as CSV UTF-8")
    return text


def _delimiter(text: str) -> str:
    """That which splits the first line with words into most columns; a comma if none does."""
    head = next((line for line in text.splitlines() if line.strip(_DELIMITERS + " ")), "")
    counts = {one: len(next(csv.reader([head], delimiter=one))) for one in _DELIMITERS}
    return max(_DELIMITERS, key=lambda one: counts[one])
