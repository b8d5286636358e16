"""What results an archive has, in a folder or a store, and how each is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pathgene_rt.archive.layout import HIDDEN
from pathgene_rt.archive.stored_results import StoredResults, feature_facts
from pathgene_rt.cases.places import CASES_FOLDER
from pathgene_rt.errors import OutputError
from pathgene_rt.features.hdf5 import read_attributes
from pathgene_rt.files import reason
from pathgene_rt.report.features_file import FEATURES_FILE
from pathgene_rt.report.stored import REPORT_FILE

Row = dict[str, Any]


@dataclass(frozen=True)
class FoundReport:
    """A report; ``name`` is its place in the archive."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class FoundFeatures:
    """A file of features; ``facts`` gives its bytes and what the table says of it, but for its
    tiles; ``slide`` is what it is called where the file does not say it, ``alone`` whether it has
    features by one bundle only."""

    name: str
    slide: str
    facts: Callable[[], tuple[int, Row]]
    alone: bool = True


def in_folder(out: Path) -> tuple[list[FoundReport], list[FoundFeatures]]:
    """The reports and the features files of the archive in a folder, sorted. Raises OutputError."""
    reports: list[FoundReport] = []
    files: list[FoundFeatures] = []

    def features(path: Path, slide: str, *, alone: bool = True) -> FoundFeatures:
        name = path.relative_to(out).as_posix()
        return FoundFeatures(name, slide, partial(_facts_of, path), alone)

    try:
        for item in sorted(out.iterdir()):
            if item.suffix == ".h5" and item.is_file():
                files.append(features(item, item.stem))
            elif item.is_dir() and item.name not in (HIDDEN, CASES_FOLDER):
                if (item / REPORT_FILE).is_file():
                    name = f"{item.name}/{REPORT_FILE}"
                    reports.append(FoundReport(name, (item / REPORT_FILE).read_bytes))
                    if (item / FEATURES_FILE).is_file():
                        files.append(features(item / FEATURES_FILE, item.name))
                else:  # of one of several bundles
                    for path in sorted(item.glob("[!.]*.h5")):
                        files.append(features(path, path.stem, alone=False))
    except OSError as error:
        raise OutputError(f"cannot list the archive {out}: {reason(error)}") from error
    return reports, files


def in_store(stored: StoredResults) -> tuple[list[FoundReport], list[FoundFeatures]]:
    """The same of a store, by the places of files there."""
    reports: list[FoundReport] = []
    files: list[FoundFeatures] = []
    for key in stored.committed():
        commit = stored.commit_of(key)
        if commit is None or key.startswith(f"{CASES_FOLDER}/"):
            continue
        if REPORT_FILE in commit.files:
            name = f"{key}/{commit.attempt}/{REPORT_FILE}"
            reports.append(FoundReport(name, partial(_object_of, stored, name)))
        if commit.facts is not None:
            last = key.rpartition("/")[2]
            own = FEATURES_FILE if REPORT_FILE in commit.files else last
            facts = (commit.files[own], commit.facts)
            slide = last.removesuffix(".h5")
            place = f"{key}/{commit.attempt}/{own}"
            alone = "/" not in key
            files.append(FoundFeatures(place, slide, partial(lambda given: given, facts), alone))
    return reports, files


def _object_of(stored: StoredResults, key: str) -> bytes:
    raw = stored.folder.read(key)
    if raw is None:
        raise FileNotFoundError(key)
    return raw


def _facts_of(path: Path) -> tuple[int, Row]:
    return path.stat().st_size, feature_facts(read_attributes(path))
