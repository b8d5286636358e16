"""How an audit trail is written: JSON lines, each with the hash of the one before, and a head.

``NAME.jsonl`` has a line for each event. ``NAME.jsonl.head`` beside it says how many lines there
are and the hash of the last one, without which lines could be cut off at the end. A file that grew
large is renamed to ``NAME.<number of its first line>.jsonl``, and the next one goes on from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pathgene_rt.errors import FileAccessError, VerificationError
from pathgene_rt.files import reason, sha256

NOTHING_BEFORE = "0" * 64
"""What the first line of all goes on from."""

SUFFIX = ".jsonl"
_DIGITS = 10
_MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of a trail: the last line's ``sequence`` number and ``sha256``, the ``size`` in bytes
    of the file that it is in, and the number of that file's ``first`` line. ``site`` are the hashes
    of the site's settings, by name, that the last lines were written under.
    """

    sequence: int = 0
    sha256: str = NOTHING_BEFORE
    size: int = 0
    first: int = 1
    site: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As it stands in the file, with a hash of itself; there is no other way of writing it."""
        document = asdict(self)
        return encoded({**document, "check": sha256(encoded(document))})

    @classmethod
    def read(cls, trail: Path) -> Self | None:
        """That of ``trail``; None if there is none. Raises VerificationError, FileAccessError."""
        path = head_path(trail)
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_HEAD_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileAccessError(f"cannot read {path}: {reason(error)}") from error
        try:
            document = json.loads(raw)
            document.pop("check", None)
            head = cls(**document)
            whole = head.to_bytes() == raw
        except (ValueError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise VerificationError(f"{path}: is no head of an audit trail: it was changed")
        return head


def head_path(trail: Path) -> Path:
    """Where the head of ``trail`` lies."""
    return trail.with_name(f"{trail.name}.head")


def rotated_path(trail: Path, first: int) -> Path:
    """What the file of ``trail`` whose first line is number ``first`` is renamed to."""
    return trail.with_name(f"{trail.stem}.{first:0{_DIGITS}d}{trail.suffix}")


def rotated_files(trail: Path) -> dict[int, Path]:
    """The files of ``trail`` that were renamed, by the number of their first line, in order."""
    pattern = re.compile(rf"{re.escape(trail.stem)}\.(\d{{{_DIGITS}}}){re.escape(trail.suffix)}")
    found = {}
    if trail.parent.is_dir():
        for path in trail.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match:
                found[int(match[1])] = path
    return dict(sorted(found.items()))


def encoded(document: Mapping[str, Any]) -> bytes:
    """``document`` as one line of JSON. NaN raises ValueError, other than JSON TypeError."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass") + b"\n"


@dataclass(frozen=True)
class Line:
    """One line as it was read, with what ties it to its neighbours."""

    document: Mapping[str, Any]
    sequence: int
    previous: str
    sha256: str

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Of the bytes ``raw``, their newline included. Raises ValueError: what is wrong."""
        if not raw.endswith(b"\n"):
            raise ValueError("is cut off: its writer was killed, or it was tampered with")
        try:
            document = json.loads(raw.decode("utf-8", "surrogatepass"))
            whole = isinstance(document, dict) and encoded(document) == raw
        except (ValueError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise ValueError("was changed: it is no line of an audit trail")
        sequence, previous = document.get("sequence"), document.get("previous")
        if type(sequence) is not int or not isinstance(previous, str):
            raise ValueError("was changed: it has no place in the trail")
        return cls(document, sequence, previous, sha256(raw))

    def require_after(self, sequence: int, digest: str) -> None:
        """Raise ValueError unless it follows the line ``sequence`` with the hash ``digest``."""
        if self.sequence != sequence + 1:
            raise ValueError(
                f"is number {self.sequence} where {sequence + 1} belongs: lines were removed, "
                "added or reordered"
            )
        if self.previous != digest:
            raise ValueError("does not go on from the line before: that one was changed")
