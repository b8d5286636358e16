"""Results in an object store, where nothing can be renamed: each is committed by one object.

The files of a result lie under ``<key>/<attempt>/``, where nobody else writes. Then one conditional
write of ``<key>/result.json``, which names the attempt and its files, makes it the result: of two
attempts one alone gets through, and nobody sees half of one. Files of an attempt whose worker
died go when there is another's commit, which it can then no longer overtake.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pathgene_rt.archive.layout import HIDDEN
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.results import Wanted
from pathgene_rt.archive.tasks import CaseTask
from pathgene_rt.cases.places import CASES_FOLDER, ResultPlaces
from pathgene_rt.cases.report import CASE_FILE
from pathgene_rt.errors import FeatureFileError, OutputError
from pathgene_rt.extraction.earlier import NOTHING, Earlier, compared
from pathgene_rt.features.hdf5 import read_attributes
from pathgene_rt.features.tile_attributes import TileAttributes
from pathgene_rt.files import json_bytes
from pathgene_rt.report.features_file import FEATURES_FILE
from pathgene_rt.report.stored import REPORT_FILE, StoredReport

COMMIT_FILE = "result.json"
FORMAT = "pathgene-rt/result"
VERSION = 1

_ATTEMPTS = f"{HIDDEN}/attempts"
_PAUSE = f"{HIDDEN}/pause"
_PAUSE_S = 5.0
"""Between looks whether the run is paused: each is a request."""

_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Which attempt's files are the result of a key, ``files`` with their bytes by name.

    ``model_sha256`` is of the bundle, of the encoder's weights for features alone; ``made_from``
    says of which slide and options it is, and is None of a case; ``facts`` are what a table of
    features says of a file without reading it.
    """

    attempt: str
    files: dict[str, int]
    model_sha256: str = ""
    made_from: dict[str, Any] | None = None
    partial: bool = False
    facts: dict[str, Any] | None = None

    def encoded(self) -> bytes:
        return json_bytes({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Raises OutputError, naming ``what``, if it is none."""
        try:
            document = json.loads(raw)
            if (document.pop("format"), document.pop("version")) != (FORMAT, VERSION):
                raise ValueError("of another version")
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{what} is no result of this version ({error}); remove it, or choose another --out"
            ) from error


class StoredResults:
    """:class:`~pathgene_rt.archive.results.Results` in the store ``folder``; they are made in
    ``scratch``, a folder of this machine."""

    def __init__(self, folder: ObjectFolder, scratch: Path) -> None:
        self.folder = folder
        self._scratch = scratch
        self._paused = False
        self._looked = -_PAUSE_S

    def commit_of(self, key: str) -> Commit | None:
        """Of the result that is there."""
        raw = self.folder.read(f"{key}/{COMMIT_FILE}")
        return None if raw is None else Commit.parse(raw, self.folder.shown(f"{key}/{COMMIT_FILE}"))

    def committed(self) -> Iterator[str]:
        """The keys of all results, sorted."""
        found = (key.rpartition("/") for key in self.folder.below())
        yield from sorted(key for key, _, name in found if name == COMMIT_FILE and key)

    def fetch(self, key: str, commit: Commit, into: Path, names: tuple[str, ...] = ()) -> None:
        """Write the result's files, or those ``names``, to the folder ``into``."""
        for name in names or commit.files:
            self.folder.fetch(f"{key}/{commit.attempt}/{name}", into / name)

    def earlier_report(
        self, key: str, bundle_sha256: str, wanted: Wanted, *, features: bool, partial: bool
    ) -> Earlier:
        commit = self.commit_of(key)
        if commit is None or commit.model_sha256 != bundle_sha256:
            return NOTHING
        if commit.partial and not partial:
            return NOTHING
        earlier = compared(wanted(), commit.made_from, partial=commit.partial)
        if earlier.serves and features and FEATURES_FILE not in commit.files:
            note = "done before without features; encoding it again for them"
            return Earlier(serves=False, note=note)
        return earlier

    def earlier_features(self, key: str, encoder_sha256: str, wanted: Wanted) -> Earlier:
        commit = self.commit_of(key)
        if commit is None:
            return NOTHING
        if commit.model_sha256 != encoder_sha256:
            raise OutputError(
                f"{self.folder.shown(key)} is of another encoder; use --overwrite or another --out"
            )
        return compared(wanted(), commit.made_from)

    def stamp(self, key: str) -> Hashable:
        commit = self.commit_of(key)
        return None if commit is None else commit.attempt

    @contextmanager
    def attempt(self, name: str, *keys: str) -> Iterator[Path]:
        marker = f"{_ATTEMPTS}/{name}"
        self.folder.put(marker, "\n".join(keys).encode())
        place = self._scratch / name
        place.mkdir(parents=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
            for key in keys:
                if self.stamp(key) != name:
                    self.folder.remove_all(f"{key}/{name}")
            self.folder.remove(marker)

    def publish(
        self, made: Path, name: str, key: str, before: Hashable, serves: Callable[[], bool]
    ) -> bool:
        files = [made] if made.is_file() else sorted(made.rglob("*"))
        sizes = {}
        for path in files:
            if path.is_file() and not path.name.startswith("."):
                known = made.name if path == made else path.relative_to(made).as_posix()
                self.folder.put_file(f"{key}/{name}/{known}", path)
                sizes[known] = path.stat().st_size
        commit = _commit_of(made, name, sizes).encoded()
        for _ in range(_TRIES):
            now = self.stamp(key)
            if now is not None:
                if now != before and serves():
                    return False
                self._remove(key, str(now))
            if not self.folder.has(f"{_ATTEMPTS}/{name}"):
                return False  # it was given up as dead, and its files are gone
            if self.folder.create(f"{key}/{COMMIT_FILE}", commit):
                return True
        raise OutputError(
            f"cannot publish {self.folder.shown(key)}: other results keep taking its place; are "
            "two archives run into one place?"
        )

    @contextmanager
    def case(self, task: CaseTask, name: str, ids: Mapping[Path, str]) -> Iterator[ResultPlaces]:
        key = f"{CASES_FOLDER}/{task.case}"
        with self.attempt(name, key) as place:
            for slide_id in ids.values():
                commit = None if slide_id in task.failed else self.commit_of(slide_id)
                if commit is not None:
                    self.fetch(slide_id, commit, place / slide_id)
            earlier = self.commit_of(key)
            if earlier is not None:
                self.fetch(key, earlier, place / key)
            before = _content(place / key)
            yield ResultPlaces(place, None, ids)
            made = _content(place / key)
            if CASE_FILE in made and made != before:
                stamp = None if earlier is None else earlier.attempt
                self.publish(place / key, name, key, stamp, lambda: False)

    def remove_case(self, case: str) -> None:
        key = f"{CASES_FOLDER}/{case}"
        now = self.stamp(key)
        if now is not None:
            self._remove(key, str(now))

    def paused(self) -> bool:
        if time.monotonic() - self._looked >= _PAUSE_S:
            self._paused, self._looked = self.folder.has(_PAUSE), time.monotonic()
        return self._paused

    def pause(self, *, paused: bool) -> None:
        """Let runs begin no further slide, or let them go on."""
        if paused:
            self.folder.put(_PAUSE, b"")
        else:
            self.folder.remove(_PAUSE)

    def drop_attempt(self, name: str) -> bool:
        marker = f"{_ATTEMPTS}/{name}"
        found = self.folder.read(marker)
        if found is None:
            return False
        stamps = {key: self.stamp(key) for key in found.decode().split("\n")}
        # Where a result is missing it may only be thought dead, and commit its files any moment.
        if None not in stamps.values():
            for key, now in stamps.items():
                if now != name:
                    self.folder.remove_all(f"{key}/{name}")
            self.folder.remove(marker)
        return True

    def drop_attempts(self) -> None:
        for key in list(self.folder.below(_ATTEMPTS)):
            self.drop_attempt(key.rpartition("/")[2])

    def _remove(self, key: str, attempt: str) -> None:
        self.folder.remove(f"{key}/{COMMIT_FILE}")
        self.folder.remove_all(f"{key}/{attempt}")


def _content(folder: Path) -> dict[str, bytes]:
    """Of the files in ``folder``, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def feature_facts(found: TileAttributes) -> dict[str, Any]:
    """What a table of features says of a file, but for its tiles."""
    return {
        "slide": found.slide_id,
        "tile_px": found.tile_px or None,
        "mpp": None if math.isnan(found.mpp) else found.mpp,
        "span_px": found.span_px,
        "encoder_sha256": found.encoder_sha256,
        "slide_sha256": (found.made_from or {}).get("slide_sha256"),
        "rows_crc32": found.rows_crc32,
    }


def _commit_of(made: Path, name: str, files: dict[str, int]) -> Commit:
    """Of the report or case in the folder ``made``, or of the features in that file."""
    if made.is_file():
        found = read_attributes(made)
        return Commit(
            attempt=name,
            files=files,
            model_sha256=found.encoder_sha256 or "",
            made_from=found.made_from,
            facts=feature_facts(found),
        )
    if not (made / REPORT_FILE).exists():
        return Commit(attempt=name, files=files)
    report = StoredReport.read(made)
    facts = None
    if FEATURES_FILE in files:
        try:
            facts = feature_facts(read_attributes(made / FEATURES_FILE))
        except FeatureFileError as error:
            raise OutputError(str(error)) from error
    return Commit(
        attempt=name,
        files=files,
        model_sha256=report.bundle_sha256,
        made_from=report.made_from,
        partial=report.partial,
        facts=facts,
    )
