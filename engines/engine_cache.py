"""Compiled engines and the decisions of `build`, kept on this machine's disk.

An entry is a data file and a JSON file with its key in words, size and checksum. The JSON is
written last, and both by renaming, so that an entry is whole or absent. What does not check out
counts as absent. The cache is a help, never a need: trouble with its folder becomes one warning.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pathgene_rt.errors import OutputError
from pathgene_rt.files import reason, sha256, write_bytes, write_json

T = TypeVar("T")

SCHEMA = 1
"""Part of every key: raise it when the meaning of a key or of the data changes."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that a compiled engine depends on. ``flags`` are backend options, sorted."""

    backend: str
    version: str
    onnx_sha256: str
    precision: str
    device: str
    threads: int
    batch: int
    flags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecisionKey:
    """What a decision of `build` holds for: a bundle, on a machine, with the software installed.

    ``product`` is this package's version, since it decides how a backend compiles.
    """

    product: str
    bundle_sha256: str
    machine: str
    backend: str
    version: str


Key = EngineKey | DecisionKey


class EngineCache:
    """The cache in ``folder``, which is made when first written to.

    Safe between processes: the last writer wins, a reader sees whole entries. Loading a compiled
    engine runs native code on its bytes, so the folder must be one that only its user can write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong with the folder, for the report."""
        return tuple(self._warnings)

    def get(self, key: EngineKey) -> bytes | None:
        """The data stored under ``key``, or None if absent or damaged."""
        record = self._record(key)
        if record is None:
            return None
        data = self._tried("read", self._path(key, ".bin").read_bytes)
        if data is None or len(data) != record.get("size") or sha256(data) != record.get("sha256"):
            return None
        return data

    def put(self, key: EngineKey, data: bytes) -> None:
        """Store ``data`` under ``key``, replacing what was there."""

        def write() -> None:
            file = self._path(key, ".bin")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, data)
            self._write_record(key, {"size": len(data), "sha256": sha256(data)})

        self._tried("write", write)

    def decision(self, key: DecisionKey) -> dict[str, Any] | None:
        """What `build` found for ``key``, or None."""
        record = self._record(key)
        found = record.get("decision") if record else None
        return found if isinstance(found, dict) else None

    def decide(self, key: DecisionKey, decision: dict[str, Any]) -> None:
        """Keep what `build` found for ``key``."""
        self._tried("write", lambda: self._write_record(key, {"decision": decision}))

    def size_bytes(self) -> int:
        """Bytes of all entries."""
        found = self._tried("read", lambda: [p.stat().st_size for p in self.folder.glob("*/*")])
        return sum(found or ())

    def _path(self, key: Key, suffix: str) -> Path:
        words = {"schema": SCHEMA, "kind": type(key).__name__, **asdict(key)}
        digest = sha256(json.dumps(words, sort_keys=True).encode())
        folder = "engines" if isinstance(key, EngineKey) else "decisions"
        return self.folder / folder / f"{digest}{suffix}"

    def _record(self, key: Key) -> dict[str, Any] | None:
        raw = self._tried("read", self._path(key, ".json").read_bytes)
        try:
            record = json.loads(raw or b"null")
        except (ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def _write_record(self, key: Key, content: dict[str, Any]) -> None:
        file = self._path(key, ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"schema": SCHEMA, "key": asdict(key), **content})

    def _tried(self, doing: str, action: Callable[[], T]) -> T | None:
        """The result of ``action``; None and, the first time, a warning if the folder fails."""
        try:
            return action()
        except FileNotFoundError:
            return None
        except OutputError as error:
            self._warn(str(error))
        except OSError as error:
            self._warn(f"cannot {doing} {self.folder}: {reason(error)}")
        return None

    def _warn(self, what: str) -> None:
        if not self._warnings:
            self._warnings.append(f"engine cache not used: {what}")
