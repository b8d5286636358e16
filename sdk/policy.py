"""The site's policy: what an administrator asks of every prediction on this machine.

``/etc/pathgene-rt/policy.toml`` (on Windows in ``%ProgramData%``, on macOS below
``/Library/Application Support``), which users can read and only administrators write.
"""

from __future__ import annotations

import os
import platform
import stat
import tomllib
from dataclasses import replace
from pathlib import Path

import platformdirs
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason, sha256

POLICY_FILE = "policy.toml"
_ADMINISTRATOR = 0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=False))
class SitePolicy:
    """``audit`` is the trail that has a line for every prediction, ``require_signature`` the
    keyring by which every model must be signed. Paths are absolute, or relative to the policy's
    folder. ``sha256`` is the file's; empty where there is no policy.
    """

    audit: Path | None = None
    require_signature: Path | None = None
    sha256: str = ""

    @classmethod
    def read(cls, path: Path, administrator: int = _ADMINISTRATOR) -> SitePolicy:
        """The policy in the file ``path``; one that asks for nothing where there is no such file.

        Raises UsageError if it is damaged, cannot be read, or belongs to others than root or the
        user id ``administrator``, or can be written by others (on Windows nobody asks).
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                raw = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise UsageError(
                f"cannot read the site's policy {path}: {reason(error)}; let every user read it"
            ) from error
        _require_administrators(path, status, administrator)
        try:
            stated = tomllib.loads(raw.decode())
            if "sha256" in stated:
                raise UsageError(f"the site's policy {path}: sha256 is no setting; leave it out")
            policy = _POLICY.validate_python({**stated, "sha256": sha256(raw)})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"the site's policy {path}: {place}: {first['msg']}; see docs/audit.md"
            ) from error
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"the site's policy {path} is no TOML: {error}") from error
        return policy.below(path.parent)

    def below(self, folder: Path) -> SitePolicy:
        """The same with paths from ``folder`` on."""

        def at(path: Path | None) -> Path | None:
            return None if path is None else folder / path

        return replace(self, audit=at(self.audit), require_signature=at(self.require_signature))


_POLICY = TypeAdapter(SitePolicy)


def policy_path() -> Path:
    """Where this machine's policy lies."""
    if platform.system() == "Linux":
        return Path("/etc/pathgene-rt") / POLICY_FILE
    return platformdirs.site_config_path("pathgene-rt", appauthor=False) / POLICY_FILE


def site_policy() -> SitePolicy:
    """This machine's. Raises UsageError as :meth:`SitePolicy.read` does."""
    return SitePolicy.read(policy_path())


def _require_administrators(path: Path, status: os.stat_result, administrator: int) -> None:
    if os.name == "nt":
        return
    if status.st_uid not in (_ADMINISTRATOR, administrator):
        raise UsageError(
            f"the site's policy {path} belongs to user id {status.st_uid}, not to root; "
            "chown root it"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"the site's policy {path} can be written by others; chmod 644 it")
