"""Whether packages' files are those that were installed: their hashes are in each one's RECORD."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PackageRecord:
    """``checked`` files of a package have a recorded hash; ``problems`` names those that differ or
    are gone. ``record_sha256`` is of the RECORD itself; empty where there is none."""

    name: str
    version: str
    checked: int
    record_sha256: str
    problems: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def check_records(packages: Iterable[Distribution]) -> tuple[PackageRecord, ...]:
    """Read every file that a RECORD of ``packages`` gives a hash for."""
    return tuple(_check(one) for one in packages)


def _check(one: Distribution) -> PackageRecord:
    name, stated = str(one.metadata["Name"]), one.version
    record = one.read_text("RECORD")
    if record is None:
        return PackageRecord(
            name=name,
            version=stated,
            checked=0,
            record_sha256="",
            note="has no RECORD: not installed by pip",
        )
    problems, checked = [], 0
    # Not Distribution.files, which leaves out what is gone from Python 3.12 on.
    for file, stated_hash, *_ in csv.reader(record.splitlines()):
        method, _, wanted = stated_hash.partition("=")
        if not wanted:  # RECORD itself, and compiled Python
            continue
        checked += 1
        try:
            with Path(str(one.locate_file(file))).open("rb") as opened:
                digest = hashlib.file_digest(opened, method).digest()
        except (OSError, ValueError) as error:
            problems.append(f"{file}: {getattr(error, 'strerror', None) or error}")
            continue
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != wanted:
            problems.append(f"{file}: is not as it was installed")
    origin = one.read_text("direct_url.json") or ""
    return PackageRecord(
        name=name,
        version=stated,
        checked=checked,
        record_sha256=hashlib.sha256(record.encode()).hexdigest(),
        problems=tuple(problems),
        note="editable: its own files lie elsewhere" if '"editable": true' in origin else "",
    )
