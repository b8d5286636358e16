"""An archive's results in two tables: ``predictions.parquet`` and ``features.parquet``.

Read from the results themselves, so that a table says what lies there, whoever made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathgene_rt.archive.found_results import FoundFeatures, FoundReport, Row, in_folder, in_store
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.requirements import require_parquet
from pathgene_rt.archive.state_mirror import state_copy
from pathgene_rt.archive.status import read_tiles
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.stores import is_url
from pathgene_rt.errors import FeatureFileError, FileAccessError, OutputError
from pathgene_rt.files import atomic_path
from pathgene_rt.report.shown_call import is_withheld
from pathgene_rt.report.stored import READABLE_VERSIONS

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS_FILE = "predictions.parquet"
FEATURES_INDEX_FILE = "features.parquet"

_UNREADABLE = (
    OSError,
    OutputError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What reading a report raises that is none, or cannot be had."""

_ROWS = 20_000
"""Of a group: what is in memory at a time."""


@dataclass(frozen=True)
class Collected:
    """Rows that were written, slides with a prediction, and what could not be read: the file's name
    in the archive and the reason."""

    predictions: int
    slides: int
    features: int
    unreadable: dict[str, str]


def collect(out: Path | str, into: Path | None = None) -> Collected:
    """Write both tables of the archive in ``out``, a folder or an address in a store, to the folder
    ``into``, else to ``out``, of a store the current folder.

    Raises MissingExtraError without pyarrow; OutputError if ``out`` cannot be listed, holds no
    result, or the tables cannot be written.
    """
    require_parquet("archive collect")
    stored = StoredResults(ObjectFolder(str(out)), Path()) if is_url(str(out)) else None
    if into is None:
        into = Path(out) if stored is None else Path()
    unreadable: dict[str, str] = {}
    slides: set[str] = set()

    def seen(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            slides.add(row["slide"])
            yield row

    reports, files = in_folder(Path(out)) if stored is None else in_store(stored)
    tiles = _tiles(out) if files else {}
    if not reports and not files:
        raise OutputError(f"{out} holds no result of predict or extract; give another folder")
    predictions = _write(
        into / PREDICTIONS_FILE, predictions_schema(), seen(_predictions(reports, unreadable))
    )
    features = _write(
        into / FEATURES_INDEX_FILE, features_schema(), _features(files, tiles, unreadable)
    )
    return Collected(predictions, len(slides), features, unreadable)


def predictions_schema() -> pa.Schema:
    """A row a slide and head. ``probability`` are those of ``classes``; null where the answer is
    ``withheld`` or not known. ``quality`` and ``seconds`` are those of the slide, by name.
    """
    import pyarrow as pa

    word, number = pa.string(), pa.float64()
    return pa.schema(
        {
            "slide": word,
            "head": word,
            "task": word,
            "gene": word,
            "call": word,
            "withheld": pa.bool_(),
            "reasons": pa.list_(word),
            "classes": pa.list_(word),
            "probability": pa.list_(number),
            "threshold": number,
            "partial": pa.bool_(),
            "domain": word,
            "tiles": pa.int64(),
            "mpp": number,
            "quality": pa.map_(word, number),
            "warnings": pa.list_(word),
            "created": pa.timestamp("s", tz="UTC"),
            "bundle": word,
            "bundle_version": word,
            "bundle_sha256": word,
            "encoder_sha256": word,
            "engine": word,
            "precision": word,
            "reader": word,
            "decode": word,
            "seconds": pa.map_(word, number),
            "pathgene_rt": word,
            "slide_sha256": word,
            "report": word,
        }
    )


def features_schema() -> pa.Schema:
    """A row a file of features; ``file`` is its place in the archive."""
    import pyarrow as pa

    word, number = pa.string(), pa.float64()
    return pa.schema(
        {
            "slide": word,
            "file": word,
            "bytes": pa.int64(),
            "tiles": pa.int64(),
            "tile_px": pa.int64(),
            "mpp": number,
            "span_px": number,
            "encoder_sha256": word,
            "slide_sha256": word,
            "rows_crc32": pa.int64(),
        }
    )


def _tiles(out: Path | str) -> dict[str, int]:
    """Tiles by slide as far as the state knows them."""
    if not is_url(str(out)):
        return read_tiles(Path(out))
    try:
        with state_copy(ObjectFolder(str(out))) as (layout, _):
            return read_tiles(layout.out)
    except OutputError:  # the results are there without it
        return {}


def _predictions(reports: Iterable[FoundReport], unreadable: dict[str, str]) -> Iterator[Row]:
    for report in reports:
        name = report.name
        try:
            document = json.loads(report.read())
            if document["schema_version"] not in READABLE_VERSIONS:
                raise ValueError(f"schema version {document['schema_version']} is not known")
            rows = [_row(document, answer, name) for answer in document["predictions"]]
        except _UNREADABLE as error:
            unreadable[name] = f"{type(error).__name__}: {error}"
            continue
        yield from rows


def _row(document: Mapping[str, Any], answer: Mapping[str, Any], name: str) -> Row:
    provenance = document["provenance"]
    bundle, encoder = provenance["bundle"], provenance["engines"]["encoder"]
    withheld = is_withheld(answer)
    domain = document.get("domain")
    return {
        "slide": document["slide"],
        "head": answer["head"],
        "task": answer["task"],
        "gene": answer.get("gene"),
        "call": answer["call"],
        "withheld": withheld,
        "reasons": [one["code"] for one in answer.get("reasons", ())],
        "classes": answer["classes"],
        "probability": None if withheld else answer["probabilities"],
        "threshold": answer.get("threshold"),
        "partial": document["partial"] is not None,
        "domain": None if domain is None else domain["verdict"],
        "tiles": provenance["tiles"]["count"],
        "mpp": provenance["tiles"]["mpp"],
        "quality": _numbers(document["quality"]),
        "warnings": document["warnings"],
        "created": datetime.fromisoformat(document["created"]),
        "bundle": bundle["name"],
        "bundle_version": bundle["version"],
        "bundle_sha256": bundle["sha256"],
        "encoder_sha256": bundle["encoder_sha256"],
        "engine": encoder["backend"],
        "precision": encoder["precision"],
        "reader": provenance["slide"]["reader"],
        "decode": provenance["slide"]["decode"],
        "seconds": _numbers(provenance["seconds"]),
        "pathgene_rt": provenance["versions"]["pathgene-rt"],
        "slide_sha256": (provenance.get("made_from") or {}).get("slide_sha256"),
        "report": name,
    }


def _features(
    files: Iterable[FoundFeatures], tiles: Mapping[str, int], unreadable: dict[str, str]
) -> Iterator[Row]:
    for file in files:
        try:
            size, facts = file.facts()
        except (FeatureFileError, FileAccessError, OSError) as error:
            unreadable[file.name] = str(error)
            continue
        slide = facts["slide"] or file.slide
        yield {
            **facts,
            "slide": slide,
            "file": file.name,
            "bytes": size,
            # The state counts the tiles of all bundles together.
            "tiles": tiles.get(slide) if file.alone else None,
        }


def _numbers(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in found.items() if value is not None]


def _write(path: Path, schema: pa.Schema, rows: Iterable[Row]) -> int:
    """Write a table, whole or not at all; the number of its rows."""
    import pyarrow as pa
    from pyarrow import parquet

    count = 0
    with atomic_path(path) as temporary:
        writer = parquet.ParquetWriter(temporary, schema, compression="zstd")
        try:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema))
                count += len(group)
        finally:
            writer.close()
    return count


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group
