"""What drivers and workers say to each other: plain values, so that another version is recognised
before it misunderstands."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal

import pathgene_rt
from pathgene_rt import errors
from pathgene_rt.batch import Outcome
from pathgene_rt.errors import PathGeneError

Kind = Literal["predict", "extract"]


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a run needs: the bundle's path on its machine and what its hash must be,
    ``more_bundles`` (path, hash) of an extraction by several, the folder ``out``, and options by
    their names in PredictOptions and EngineOptions. ``nice`` is
    added to the worker's own niceness. ``site`` is the path of a site profile whose hash must be
    ``site_sha256``, ``audit`` that of the audit trail, ``keyring`` whose bundles are used; empty:
    none. Slides of stores are staged in the folder ``stage``, the
    system's temporary one if empty, of each worker at most ``stage_limit`` bytes; with ``ranges``
    only what is read of them is fetched, where that can be.
    """

    kind: Kind
    bundle: str
    bundle_sha256: str
    out: str
    predict: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    site: str = ""
    site_sha256: str = ""
    audit: str = ""
    keyring: str = ""
    nice: int = 0
    stage: str = ""
    stage_limit: int = 0
    ranges: bool = False
    more_bundles: tuple[tuple[str, str], ...] = ()

    @property
    def bundles(self) -> dict[str, tuple[str, str]]:
        """(path, hash) of each bundle by the folder of its results in ``out``: its name, or none
        where it is the only one."""
        every = ((self.bundle, self.bundle_sha256), *self.more_bundles)
        return {
            bundle_folder(path) if self.more_bundles else "": (path, sha) for path, sha in every
        }


def bundle_folder(path: str) -> str:
    """The folder for the features by one of several bundles."""
    return PurePath(path).stem


@dataclass(frozen=True)
class Hello:
    """What a worker says of itself. ``refusal`` is why it cannot take part, empty if it can;
    ``clock`` is its time, seconds since 1970."""

    node: str
    pid: int
    clock: float
    engine: str = ""
    refusal: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlideTask:
    """A slide to be done, of ``size`` bytes as far as is known. ``case`` is the one that its result
    belongs to, empty if none. Where ``slide_id`` is a pseudonym, ``hidden_id`` is what it stands
    for."""

    slide_id: str
    source: str
    size: int = 0
    case: str = ""
    mpp: float | None = None
    hidden_id: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return self.slide_id


@dataclass(frozen=True)
class CaseTask:
    """A case whose slides have been done, in their order, but for those ``failed``."""

    case: str
    slides: tuple[tuple[str, str], ...]
    """(slide id, source) of each."""
    failed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.case


@dataclass(frozen=True)
class SampleTask:
    """A slide to be done for the time that it takes, without a result."""

    slide_id: str
    source: str
    mpp: float | None = None
    hidden_id: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return self.slide_id


Task = SlideTask | CaseTask | SampleTask


@dataclass(frozen=True)
class Ended:
    """What became of a task. ``kind`` is the class of the error that it failed of; ``stops``: every
    other task would meet it too. ``seconds`` are of wall time, ``tiles`` those that were encoded.
    """

    outcome: Outcome
    seconds: float = 0.0
    tiles: int = 0
    kind: str = ""
    message: str = ""
    stops: bool = False
    note: str = ""

    @property
    def error(self) -> PathGeneError | None:
        """What it failed of, None if it did not."""
        return None if self.outcome != "failed" else error_of(self.kind, self.message)


def error_of(kind: str, message: str) -> PathGeneError:
    """The error of that class, a plain PathGeneError where there is none of that name."""
    found = getattr(errors, kind, PathGeneError)
    known = isinstance(found, type) and issubclass(found, PathGeneError)
    error: PathGeneError = (found if known else PathGeneError)(message)
    return error


@cache
def package_sha256() -> str:
    """Of this installation's source, in hex digits: equal where the same code runs."""
    root = Path(next(iter(pathgene_rt.__path__)))
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()
