"""What lies in a folder of results, as the list of the page shows it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pathgene_rt.cases.places import CASES_FOLDER
from pathgene_rt.cases.report import CASE_FILE
from pathgene_rt.cases.report import READABLE_VERSIONS as CASE_VERSIONS
from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason
from pathgene_rt.report.geojson import GEOJSON_FILE, QUALITY_FILE
from pathgene_rt.report.stored import READABLE_VERSIONS, REPORT_FILE

MAX_REPORT_BYTES = 32 << 20
MAX_RESULTS = 20_000

_PARTS = ("heatmap_*.png", GEOJSON_FILE, QUALITY_FILE, "features.h5", "features.h5.partial")
"""What a folder holds whose report is still to come."""

State = Literal["ready", "writing", "unreadable"]
Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One slide's folder, or a case's. ``name`` is the folder's (of a case :func:`case_name`),
    ``file`` its report there, ``stamp`` (mtime in ns, bytes) that file's.

    ``state`` "writing": a run is under way or was stopped, there is no report (yet); "unreadable":
    ``problem`` is the key of a text of the page that says why, ``problem_value`` its value.
    ``summary`` is what the list shows of a report that is ready.
    """

    name: str
    folder: Path
    state: State
    stamp: Stamp
    file: str = REPORT_FILE
    problem: str = ""
    problem_value: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_case(self) -> bool:
        return self.file == CASE_FILE

    def to_dict(self) -> dict[str, Any]:
        """For the page: nothing of where the folder lies."""
        return {
            "name": self.name,
            "state": self.state,
            "is_case": self.is_case,
            "stamp": f"{self.stamp[0]:x}-{self.stamp[1]:x}",
            "problem": self.problem,
            "problem_value": self.problem_value,
            **self.summary,
        }


def case_name(folder: str) -> str:
    """The name of the case whose results lie in ``folder``: a slide may have the same id."""
    return f"case:{folder}"


class ResultFolder:
    """The results below ``root``: its subfolders, or ``root`` itself if it is one slide's folder.

    Names that a page sends are looked up here and never become part of a path. A subfolder that is
    a link to somewhere outside ``root`` is not a result. Reports are read again when their time or
    size changes. Thread-safe.
    """

    def __init__(self, root: Path, *, fresh_s: float = 0.5) -> None:
        """Raises OutputError if ``root`` is no folder that can be listed."""
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._results: dict[str, Result] = {}
        self._listed_s = -float("inf")
        try:
            self.root = root.resolve(strict=True)
            next(self.root.iterdir(), None)
        except OSError as error:
            raise OutputError(
                f"cannot list the results folder {root}: {reason(error)}; give the folder that "
                "predict wrote to with --out"
            ) from error

    def results(self) -> dict[str, Result]:
        """By name, sorted; at most half a second old."""
        with self._lock:
            if time.monotonic() - self._listed_s > self._fresh_s:
                self._results = self._list()
                self._listed_s = time.monotonic()
            return self._results

    def get(self, name: str) -> Result | None:
        """The result of that name, if there is one."""
        return self.results().get(name)

    def document(self, result: Result) -> dict[str, Any]:
        """The whole report. Raises OutputError if it is gone or damaged by now."""
        return _read_document(result.folder / result.file)

    def file(self, result: Result, name: str) -> Path | None:
        """The file ``name`` of a result, which the caller took from its report; None if it is not
        a plain name, not there, or a link to outside the folder."""
        if Path(name).name != name or name in ("", ".", ".."):
            return None
        path = (result.folder / name).resolve()
        return path if path.parent == result.folder and path.is_file() else None

    def _list(self) -> dict[str, Result]:
        if (self.root / REPORT_FILE).is_file():
            one = self._result(self.root)
            return {one.name: one} if one is not None else {}
        found = {}
        try:
            folders = sorted(item for item in self.root.iterdir() if item.is_dir())
        except OSError:  # removed while the page is open: nothing is there any more
            return {}
        for folder in folders[:MAX_RESULTS]:
            if folder.name.startswith(".") or folder.resolve().parent != self.root:
                continue
            one = self._result(folder)
            if one is not None:
                found[one.name] = one
        return found | self._list_cases()

    def _list_cases(self) -> dict[str, Result]:
        cases = self.root / CASES_FOLDER
        if not cases.is_dir() or cases.resolve() != cases:
            return {}
        found = {}
        for folder in sorted(item for item in cases.iterdir() if item.is_dir())[:MAX_RESULTS]:
            if not folder.name.startswith(".") and folder.resolve() == folder:
                one = self._case(folder)
                if one is not None:
                    found[one.name] = one
        return found

    def _case(self, folder: Path) -> Result | None:
        try:
            status = (folder / CASE_FILE).stat()
        except OSError:
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._results.get(case_name(folder.name))
        return known if known is not None and known.stamp == stamp else _read(_CASE, folder, stamp)

    def _result(self, folder: Path) -> Result | None:
        report = folder / REPORT_FILE
        try:
            status = report.stat()
        except OSError:
            parts = sorted(path for pattern in _PARTS for path in folder.glob(pattern))
            if not parts:
                return None
            newest = max((_mtime_ns(part) for part in parts), default=0)
            return Result(
                name=folder.name, folder=folder, state="writing", stamp=(newest, len(parts))
            )
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._results.get(folder.name)
        if known is not None and known.stamp == stamp and known.state != "writing":
            return known
        return _read(_SLIDE, folder, stamp)


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read(kind: _Kind, folder: Path, stamp: Stamp) -> Result:
    name = kind.name(folder.name)

    def unreadable(problem: str, value: object = "") -> Result:
        return Result(
            name=name,
            folder=folder,
            state="unreadable",
            stamp=stamp,
            file=kind.file,
            problem=problem,
            problem_value=str(value)[:200],
        )

    try:
        document = _read_document(folder / kind.file)
    except OutputError:
        return unreadable("problem_no_report")
    version = document.get("schema_version")
    if version not in kind.versions:
        return unreadable("problem_version", version)
    try:
        summary = kind.summary(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return unreadable("problem_content", error)
    return Result(
        name=name, folder=folder, state="ready", stamp=stamp, file=kind.file, summary=summary
    )


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_REPORT_BYTES + 1)
        if len(raw) > MAX_REPORT_BYTES:
            raise OutputError(f"{path} is over {MAX_REPORT_BYTES >> 20} MB, so no report")
        document = json.loads(raw)
    except OSError as error:
        raise OutputError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path} is no report; predict its slide again") from error
    if not isinstance(document, dict):
        raise OutputError(f"{path} is no report; predict its slide again")
    return document


def _summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the list shows. Raises KeyError, TypeError or ValueError if it is not all there."""
    quality = dict(document["quality"])
    return {
        "slide": str(document["slide"]),
        "created": str(document["created"]),
        "bundle": str(document["provenance"]["bundle"]["name"]),
        "tiles": int(document["provenance"]["tiles"]["count"]),
        "partial": document["partial"] is not None,
        "warnings": len(list(document["warnings"])),
        "quality": {
            name: float(quality[name])
            for name in ("tissue_area_mm2", "tissue_share", "damaged_tiles", "pen_share")
            if quality.get(name) is not None
        },
        "predictions": [_answer(one, one) for one in document["predictions"]],
    }


def _case_summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the list shows of a case: of its two answers that for all tiles as one bag, and the call
    of the other. Raises as :func:`_summary`."""
    return {
        "slide": str(document["case"]),
        "slides": [str(one["slide"]) for one in document["slides"]],
        "created": str(document["created"]),
        "bundle": str(document["provenance"]["bundle"]["name"]),
        "tiles": int(document["provenance"]["tiles"]["count"]),
        "partial": False,
        "warnings": len(list(document["warnings"])),
        "quality": {},
        "predictions": [
            _answer(one, one["pooled_bag"]) | {"mean_call": str(one["mean_of_slides"]["call"])}
            for one in document["predictions"]
        ],
    }


def _answer(head: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "head": str(head["head"]),
        "gene": str(head["gene"] or head["head"]),
        "call": str(answer["call"]),
        "zones": head.get("zones"),
        "called": [int(place) for place in answer["called"]],
        "classes": [str(name) for name in head["classes"]],
        "probabilities": [float(value) for value in answer["probabilities"]],
    }


class _Kind(NamedTuple):
    """A kind of result: where its report is, which versions can be read, what the list shows."""

    name: Callable[[str], str]
    file: str
    versions: Collection[object]
    summary: Callable[[Mapping[str, Any]], dict[str, Any]]


_SLIDE = _Kind(str, REPORT_FILE, READABLE_VERSIONS, _summary)
_CASE = _Kind(case_name, CASE_FILE, CASE_VERSIONS, _case_summary)
