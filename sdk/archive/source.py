"""What an archive consists of: the slides of a folder tree, or those that a manifest lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pathgene_rt.archive.requirements import require_parquet
from pathgene_rt.archive.stores import checked_url, is_url, list_store, shown_url, sizes_of
from pathgene_rt.batch import keep_ids
from pathgene_rt.cases.table import Case, check_case_ids
from pathgene_rt.errors import UsageError
from pathgene_rt.options import checked_mpp
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.slide_ids import file_key
from pathgene_rt.slides.find import find_slides
from pathgene_rt.tables import Table, TableRow, is_missing, read_table

_COLUMNS = {
    "slide": ("slide", "file", "path", "url", "slide_id"),
    "case": ("case", "case_id"),
    "mpp": ("mpp",),
    "priority": ("priority",),
}
"""What the columns of a manifest may be called, the first found counts."""

_MANIFESTS = (".csv", ".tsv", ".txt", ".parquet")


@dataclass(frozen=True, slots=True)
class ArchiveSlide:
    """One slide of an archive: ``source`` is its path, ``size`` in bytes, 0 where that is not known
    (its turn will say why). ``case`` is empty for slides of no case, ``mpp`` None where the slide
    says its scale. Slides of higher ``priority`` come first. Under pseudonyms ``slide_id`` and
    ``case`` are these, and ``hidden_id`` is what the slide is called without them.
    """

    slide_id: str
    source: str
    size: int = 0
    case: str = ""
    mpp: float | None = None
    priority: int = 0
    hidden_id: str = field(default="", repr=False)

    @property
    def shown_source(self) -> str:
        """Where it is, as it may be told: nothing under pseudonyms."""
        return "" if self.hidden_id else self.source


def find_archive(
    source: str,
    out: Path,
    told: Callable[[str], object],
    pseudonyms: Pseudonyms | None = None,
) -> list[ArchiveSlide]:
    """The slides of ``source``: a folder with all in it, here or in a store (``s3://bucket/2024``),
    one slide, or a manifest (CSV or Parquet with the columns slide, and if need be case, mpp,
    priority; paths are taken from the manifest's folder, and may be addresses). ``slides.csv`` in
    ``out`` gets the ids of those whose names do not tell them, unless there are ``pseudonyms``.

    ``told`` gets a line on files that no reader takes. Raises UsageError, OutputError.
    """
    path = Path(source)
    if is_url(source) and source.lower().endswith(_MANIFESTS):
        raise UsageError(f"{shown_url(source)}: copy the manifest to a disk of this machine first")
    if is_url(source):
        slides = [ArchiveSlide("", url, size) for url, size in list_store(source)]
    elif path.is_file() and path.suffix.lower() in _MANIFESTS:
        slides = list(_of_manifest(path))
    else:
        found = find_slides([source], recursive=True, told=told)
        slides = [ArchiveSlide("", str(one)) for one in found]
    return _with_ids(slides, out, pseudonyms)


def given_slides(
    paths: Sequence[Path],
    cases: Sequence[Case],
    out: Path,
    pseudonyms: Pseudonyms | None = None,
) -> list[ArchiveSlide]:
    """The slides ``paths``, of which some are of ``cases``. Raises UsageError, OutputError."""
    case_of = {path: case.case_id for case in cases for path in case.slides}
    slides = [ArchiveSlide("", str(path), case=case_of.get(path, "")) for path in paths]
    return _with_ids(slides, out, pseudonyms)


def _with_ids(
    slides: Sequence[ArchiveSlide], out: Path, pseudonyms: Pseudonyms | None
) -> list[ArchiveSlide]:
    paths = [_path_of(slide.source) for slide in slides]
    ids = keep_ids(paths, out, pseudonyms)
    stored = sizes_of(one.source for one in slides if is_url(one.source) and not one.size)

    def sized(slide: ArchiveSlide, path: Path) -> int:
        return slide.size or (stored[slide.source] if is_url(slide.source) else size_of(path))

    return [
        replace(
            slide,
            slide_id=shown_id(ids[path], pseudonyms),
            size=sized(slide, path),
            case=shown_id(slide.case, pseudonyms) if slide.case else "",
            hidden_id=ids[path] if pseudonyms is not None else "",
        )
        for slide, path in zip(slides, paths, strict=True)
    ]


def _path_of(source: str) -> Path:
    """A path that stands for ``source`` in the table of ids: that of a file, or one that no file
    has."""
    return Path("/", *source.split("://", 1)) if is_url(source) else Path(source)


def size_of(path: Path) -> int:
    """Bytes of the slide ``path``, with those of the folder that belongs to an MRXS; 0 where they
    cannot be told."""
    paths: Iterable[Path] = (path,)
    if path.suffix.lower() == ".mrxs":
        paths = (path, *path.with_suffix("").glob("*"))
    try:
        return sum(one.stat().st_size for one in paths)
    except OSError:
        return 0


def _of_manifest(path: Path) -> Iterator[ArchiveSlide]:
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    columns = {name: table.column(*names) for name, names in _COLUMNS.items()}
    if columns["slide"] is None:
        raise UsageError(
            f"{path} needs the column slide (and may have case, mpp, priority); its columns are "
            f"{', '.join(table.columns) or '-'}"
        )
    if not table.rows:
        raise UsageError(f"{path} lists no slide; add a row for each")
    seen: dict[str, int] = {}
    cases: dict[str, None] = {}
    for row in table.rows:
        cells = {
            name: None if column is None or is_missing(row.cells[column]) else row.cells[column]
            for name, column in columns.items()
        }
        slide = _slide_of(path, row.line, cells)
        key = file_key(_path_of(slide.source))
        earlier = seen.setdefault(key, row.line)
        if earlier != row.line:
            raise UsageError(
                f"{path}: slide {Path(slide.source).name} is listed twice, in lines {earlier} and "
                f"{row.line}; remove one of them"
            )
        if slide.case:
            cases.setdefault(slide.case)
        yield slide
    check_case_ids(path, cases)


def _slide_of(path: Path, line: int, cells: dict[str, str | None]) -> ArchiveSlide:
    entry = cells["slide"]
    if entry is None:
        raise UsageError(f"{path}: line {line} has no slide; fill it in or remove the line")
    mpp = _number(path, line, "mpp", cells["mpp"])
    checked_mpp(f"{path}, line {line}: mpp", mpp)
    priority = _number(path, line, "priority", cells["priority"]) or 0
    if priority != int(priority):
        raise UsageError(f"{path}: line {line} has the priority {priority:g}; give a whole number")
    place = checked_url(entry) if is_url(entry) else str(path.parent / entry)
    return ArchiveSlide("", place, 0, cells["case"] or "", mpp, int(priority))


def _number(path: Path, line: int, column: str, cell: str | None) -> float | None:
    if cell is None:
        return None
    try:
        return float(cell)
    except ValueError:
        raise UsageError(f"{path}: line {line} has {column} {cell!r}; give a number") from None


def _read_csv(path: Path) -> Table:
    return read_table(path, "the manifest")


def _read_parquet(path: Path) -> Table:
    """As a table of words, as CSV is; its first row counts as line 1."""
    require_parquet("a manifest in Parquet")
    from pyarrow import ArrowException, parquet

    try:
        found = parquet.read_table(path)
        columns: dict[str, list[Any]] = {
            name: found[name].to_pylist() for name in found.schema.names
        }
    except (OSError, ArrowException) as error:
        raise UsageError(f"{path} is no Parquet file that can be read: {error}") from error
    rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
    return Table(
        path,
        tuple(columns),
        tuple(
            TableRow(line, {name: _word(cell) for name, cell in row.items()})
            for line, row in enumerate(rows, 1)
        ),
    )


def _word(cell: object) -> str:
    return "" if cell is None or cell != cell else str(cell).strip()  # noqa: PLR0124 - NaN


def cases_of(slides: Iterable[ArchiveSlide]) -> dict[str, list[ArchiveSlide]]:
    """Slides by case, in their order; those of none are left out."""
    members: defaultdict[str, list[ArchiveSlide]] = defaultdict(list)
    for slide in slides:
        if slide.case:
            members[slide.case].append(slide)
    return dict(members)
