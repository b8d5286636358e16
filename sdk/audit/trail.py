"""Appends to an audit trail, from any number of processes and machines, through any kill."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pathgene_rt.audit.chain import Head, Line, encoded, head_path, rotated_files, rotated_path
from pathgene_rt.errors import OutputError, VerificationError
from pathgene_rt.files import reason, write_bytes
from pathgene_rt.locks import sole_writer
from pathgene_rt.package_versions import package_version

ROTATE_BYTES = 64 << 20
"""About 60,000 slides."""

LOCK_WAIT_S = 60.0
"""For other processes to write their lines, which takes each a moment."""


class AuditTrail:
    """The trail in the file ``path``, made at the first line; any number of threads and
    processes may append to it.

    Each line reaches the disk, by fsync, before :meth:`append` returns. What a killed process left
    of a line is cut off, and a line says so. A file of ``rotate_bytes`` is renamed, and the next
    goes on from its last line.

    Raises UsageError if ``path`` does not end in .jsonl.
    """

    def __init__(self, path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        if path.suffix != ".jsonl":
            raise OutputError(f"{path}: an audit trail is called NAME.jsonl; choose such a name")
        self.path = path.absolute()
        self._rotate_bytes = rotate_bytes

    def require_writable(self) -> None:
        """Prove, before hours of work, that a line can be added. Raises as :meth:`append`."""
        self._make_folder()
        with sole_writer(self.path, LOCK_WAIT_S):
            self._settled()

    def append(self, event: str, facts: Mapping[str, Any]) -> None:
        """Add a line that says who did ``event`` when, and its ``facts``: a JSON object.

        Raises OutputError if it cannot be written; VerificationError if the end of the trail is not
        as its head says, for then it was tampered with and nothing may be added; FileAccessError
        if another process holds it.
        """
        self._make_folder()
        with sole_writer(self.path, LOCK_WAIT_S):
            self._add(self._settled(), event, facts)

    def site_changed(self, name: str, digest: str, facts: Mapping[str, Any] | None = None) -> bool:
        """Add a line ``site-change`` if the site's setting ``name`` (a policy, a profile) has
        another hash than when the trail was last told; True if there was one. Raises as
        :meth:`append`."""
        self._make_folder()
        with sole_writer(self.path, LOCK_WAIT_S):
            head = self._settled()
            before = head.site.get(name)
            if before == digest:
                return False
            head = replace(head, site={**head.site, name: digest})
            changed = {"setting": name, "before": before, "after": digest, **(facts or {})}
            self._add(head, "site-change", changed)
            return True

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> OutputError:
        failure = OutputError(
            f"cannot write the audit trail {self.path}: {reason(error)}; no result counts without "
            "it: free space, or let this user write there"
        )
        failure.__cause__ = error
        return failure

    def _add(self, head: Head, event: str, facts: Mapping[str, Any]) -> None:
        if head.size >= self._rotate_bytes:
            head = self._rotated(head)
        line = {
            "sequence": head.sequence + 1,
            "previous": head.sha256,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user": _user(),
            "machine": platform.node(),
            "process": os.getpid(),
            "software": f"pathgene-rt {package_version('pathgene-rt')}",
            "event": event,
            **facts,
        }
        raw = encoded(line)
        try:
            is_new = not self.path.exists()
            with self.path.open("ab") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise self._cannot(error) from error
        end = Line.parse(raw)
        self._write_head(
            replace(head, sequence=end.sequence, sha256=end.sha256, size=head.size + len(raw))
        )

    def _write_head(self, head: Head) -> None:
        write_bytes(head_path(self.path), head.to_bytes())

    def _rotated(self, head: Head) -> Head:
        """Rename the file; the next line begins another."""
        try:
            self.path.rename(rotated_path(self.path, head.first))
            _sync_folder(self.path.parent)
        except OSError as error:
            raise self._cannot(error) from error
        return replace(head, size=0, first=head.sequence + 1)

    def _settled(self) -> Head:
        """The head, after what a killed process left was settled. Raises VerificationError."""
        head = Head.read(self.path)
        if head is None:
            if rotated_files(self.path):
                raise self._tampered("its head is gone")
            head = Head()
        elif head.size and rotated_path(self.path, head.first).exists():
            # Killed after the file was renamed: the head is about the renamed one.
            if rotated_path(self.path, head.first).stat().st_size != head.size:
                raise self._tampered("the file before it has another size than when it was left")
            head = replace(head, size=0, first=head.sequence + 1)
        try:
            with self.path.open("rb") as file:
                file.seek(head.size)
                rest = file.read()
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            size, rest = 0, b""
        except OSError as error:
            raise self._cannot(error) from error
        if size < head.size:
            raise self._tampered(f"it has {size} bytes where its head says {head.size}")
        return self._taken_over(head, rest) if rest else head

    def _taken_over(self, head: Head, rest: bytes) -> Head:
        """The head with what was written behind it: a line that a killed process did not come to
        count, or part of one."""
        raw, newline, torn = rest.partition(b"\n")
        if not newline:
            raw, torn = b"", rest
        if raw:
            try:
                line = Line.parse(raw + newline)
                line.require_after(head.sequence, head.sha256)
            except ValueError as error:
                raise self._tampered(f"line {head.sequence + 1} {error}") from error
            head = replace(
                head,
                sequence=line.sequence,
                sha256=line.sha256,
                size=head.size + len(raw) + len(newline),
            )
            self._write_head(head)
        if b"\n" in torn:
            raise self._tampered("it has more lines than its head says")
        if not torn:
            return head
        try:
            with self.path.open("r+b") as file:
                file.truncate(head.size)
                os.fsync(file.fileno())
        except OSError as error:
            raise self._cannot(error) from error
        self._add(head, "repair", {"bytes_of_a_torn_line": len(torn)})
        settled = Head.read(self.path)
        assert settled is not None  # written just now, under the lock
        return settled

    def _tampered(self, what: str) -> VerificationError:
        return VerificationError(
            f"the audit trail {self.path} is not as it was left: {what}; keep it for whoever "
            "investigates, and let new lines go to another file"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _sync_folder(folder: Path) -> None:
    """Let a new name reach the disk, where folders can be opened."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
