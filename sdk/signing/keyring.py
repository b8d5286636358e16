"""Whose signatures count: a public key, or a TOML file of several with their limits."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason
from pathgene_rt.signing.keys import PublicKey

_MAX_BYTES = 1 << 20


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class _Stated:
    """A ``[[key]]`` of the file: ``public`` is a PEM file, from the keyring's folder on."""

    name: str
    public: str
    not_before: date | None = None
    not_after: date | None = None
    revoked: str = ""


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class _File:
    key: tuple[_Stated, ...] = ()


_TYPE = TypeAdapter(_File)


@dataclass(frozen=True)
class TrustedKey:
    """A key whose signatures count from ``not_before`` to ``not_after``, both days included, unless
    it is ``revoked``: why."""

    name: str
    public: PublicKey
    not_before: date | None = None
    not_after: date | None = None
    revoked: str = ""

    def refusal(self, today: date) -> str:
        """Why its signatures do not count today; empty if they do."""
        if self.revoked:
            return f"the key {self.name} is revoked: {self.revoked}"
        if self.not_after is not None and today > self.not_after:
            return f"the key {self.name} expired on {self.not_after}"
        if self.not_before is not None and today < self.not_before:
            return f"the key {self.name} counts from {self.not_before} on"
        return ""


@dataclass(frozen=True)
class Keyring:
    """The keys of the file ``path``."""

    path: Path
    keys: tuple[TrustedKey, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """A PEM public key, which counts without limits, or a TOML file with a ``[[key]]`` for
        each: ``name``, ``public``, and if need be ``not_before``, ``not_after``, ``revoked``.

        Raises UsageError.
        """
        raw = _read(path)
        if raw.lstrip().startswith(b"-----BEGIN"):
            return cls(path, (TrustedKey(path.name, PublicKey.from_pem(raw, str(path))),))
        try:
            stated = _TYPE.validate_python(tomllib.loads(raw.decode()))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UsageError(f"the keyring {path}: {place}: {first['msg']}") from error
        except ValueError as error:
            raise UsageError(f"the keyring {path} is neither PEM nor TOML: {error}") from error
        if not stated.key:
            raise UsageError(f"the keyring {path} has no [[key]]; nothing could be accepted")
        keys = []
        for one in stated.key:
            file = path.parent / one.public
            public = PublicKey.from_pem(_read(file), str(file))
            keys.append(TrustedKey(one.name, public, one.not_before, one.not_after, one.revoked))
        if len({one.public.key_id for one in keys}) != len(keys):
            raise UsageError(f"the keyring {path} has a key twice; which limits count?")
        return cls(path, tuple(keys))

    def find(self, key_id: str) -> TrustedKey | None:
        return next((one for one in self.keys if one.public.key_id == key_id), None)


def today() -> date:
    return datetime.now(UTC).date()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}; check the keyring") from error


def key_facts(key: TrustedKey) -> dict[str, Any]:
    """For the audit trail."""
    return {"name": key.name, "key_sha256": key.public.key_id}
