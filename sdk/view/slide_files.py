"""The slides of the folders given, by the ids that reports name them by."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pathgene_rt.errors import UsageError
from pathgene_rt.slide_ids import read_table, slide_id_of
from pathgene_rt.slides.registry import known_suffixes

MAX_FILES = 200_000
MAX_DEPTH = 6

_FRESH_S = 3.0


@dataclass(frozen=True)
class SlideIdentity:
    """What tells that a file is still the same: bytes and time of last change in ns."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> SlideIdentity:
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.size:x}-{self.mtime_ns:x}"


class SlideFolders:
    """The slides below ``roots``. Links that lead out of their root are not followed. Thread-safe.

    A slide's id is that of its file's name, in any case. Pseudonymised results find no slide: what
    would find it would undo the pseudonym.
    """

    def __init__(self, roots: Sequence[Path], results: Path | None = None) -> None:
        """``results`` is the folder whose ``slides.csv`` says which file an id means, where several
        have that name; a file that it names counts only if it lies in ``roots``.

        Raises UsageError for a root that is no folder, or a damaged table.
        """
        for root in roots:
            if not root.is_dir():
                raise UsageError(f"--slides {root} is no folder; give the folder of the slides")
        self._roots = [root.resolve() for root in roots]
        self._results = results
        self._table()
        self._lock = threading.Lock()
        self._by_id: dict[str, list[Path]] = {}
        self._listed_s = -float("inf")

    @property
    def given(self) -> bool:
        """Whether there is any folder to look in."""
        return bool(self._roots)

    def find(self, slide_id: str) -> tuple[Path, ...]:
        """Files of that id, the first to be shown; none if there is none."""
        with self._lock:
            found = [path for path in self._by_id.get(slide_id.casefold(), ()) if path.is_file()]
            if not found and time.monotonic() - self._listed_s > _FRESH_S:
                self._by_id = self._list()
                self._listed_s = time.monotonic()
                found = self._by_id.get(slide_id.casefold(), [])
            return tuple(found)

    def _table(self) -> dict[str, list[Path]]:
        """Files of the table that lie in the roots, by their ids. Raises UsageError."""
        if self._results is None:
            return {}
        files = {slide_id: Path(file) for file, slide_id in read_table(self._results).items()}
        return {
            slide_id.casefold(): [path.resolve()]
            for slide_id, path in files.items()
            if path.is_file() and any(path.resolve().is_relative_to(root) for root in self._roots)
        }

    def _list(self) -> dict[str, list[Path]]:
        by_id = self._by_name()
        try:
            return by_id | self._table()
        except (
            UsageError
        ):  # damaged since the start: names alone still say which files may be meant
            return by_id

    def _by_name(self) -> dict[str, list[Path]]:
        by_id: dict[str, list[Path]] = {}
        seen = 0
        suffixes = known_suffixes()
        for root in self._roots:
            for path in _walk(root):
                seen += 1
                if seen > MAX_FILES:
                    return by_id
                if path.suffix.lower() in suffixes and path.resolve().is_relative_to(root):
                    by_id.setdefault(slide_id_of(path).casefold(), []).append(path.resolve())
        return by_id


def _walk(root: Path) -> Iterator[Path]:
    """Files below ``root`` in order, not deeper than MAX_DEPTH folders, no linked folder."""
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if depth >= MAX_DEPTH:
            folders.clear()
        for name in sorted(files):
            yield Path(folder) / name


def differences(
    document: Mapping[str, Any], info: Mapping[str, Any], identity: SlideIdentity
) -> list[dict[str, str]]:
    """What speaks against the file being the slide that the report is about: keys of texts, each
    with its values. Compared are the scale, and the fingerprint of the file that the report was
    made from; where an older report has none, whether the file is newer than the report.
    """
    provenance = document["provenance"]
    found = []

    def differs(what: str, report: object = "", slide: object = "") -> None:
        found.append({"key": what, "report": str(report), "slide": str(slide)})

    mpp, own = provenance.get("slide", {}).get("mpp"), info["mpp"]
    if isinstance(mpp, float) and own is not None and abs(mpp - own) > 0.01 * own:
        differs("changed_mpp", f"{mpp:.4g}", f"{own:.4g}")
    fingerprint = (provenance.get("made_from") or {}).get("slide_sha256")
    if fingerprint is not None:
        if fingerprint != info["content_sha256"]:
            differs("changed_content")
        return found
    try:
        made = datetime.fromisoformat(str(document.get("created"))).timestamp()
    except ValueError:
        return found
    if identity.mtime_ns / 1e9 > made + 1:
        changed = datetime.fromtimestamp(identity.mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
        differs("changed_newer", document["created"], changed)
    return found
