"""What is signed of a file or folder: the SHA-256 of each of its files, as `model_signing` does.

In-toto statement v1 with the predicate https://model_signing/signature/v1.0 of the OpenSSF.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from pathgene_rt.errors import FileAccessError
from pathgene_rt.files import is_safe_name, reason

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
WHOLE = "."
"""What the predicate calls the file that is the model itself."""

_IGNORED = (".gitattributes", ".git", ".gitignore", ".github")
"""As model_signing leaves them out of a folder."""


def statement_of(path: Path) -> dict[str, Any]:
    """The statement of the model ``path``, a file or a folder. Raises FileAccessError."""
    digests = file_digests(path)
    resources = [
        {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
    ]
    return {
        "_type": _STATEMENT,
        "subject": [{"name": path.resolve().name, "digest": {"sha256": _root(digests)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": resources,
        },
    }


def stated_digests(statement: Any) -> dict[str, str]:
    """The hash of each file that ``statement`` is about. Raises ValueError: what is wrong."""
    try:
        if statement["_type"] != _STATEMENT or statement["predicateType"] != _PREDICATE:
            raise ValueError("is of another kind than a model's")
        serialization = statement["predicate"]["serialization"]
        if (serialization["method"], serialization["hash_type"]) != ("files", "sha256"):
            raise ValueError("is of shards or other hashes than SHA-256; sign whole files")
        resources = statement["predicate"]["resources"]
        digests = {one["name"]: one["digest"] for one in resources}
        (subject,) = statement["subject"]
        whole = (
            len(digests) == len(resources) > 0
            and all(one["algorithm"] == "sha256" for one in resources)
            and all(name == WHOLE or is_safe_name(name) for name in digests)
            and subject["digest"] == {"sha256": _root(digests)}
        )
    except (KeyError, TypeError) as error:
        raise ValueError("says nothing of a model's files") from error
    if not whole:
        raise ValueError("does not agree with itself")
    return digests


def file_digests(path: Path) -> dict[str, str]:
    """The hash of each file of ``path`` by its name in it; of a file its own, called "."; in the
    order of names. Links are left out. Raises FileAccessError."""
    try:
        if not path.is_dir():
            return {WHOLE: _digest(path)}
        files = {
            PurePosixPath(one.relative_to(path).as_posix()): one
            for one in path.rglob("*")
            if one.is_file() and not one.is_symlink()
        }
        return {
            str(name): _digest(files[name])
            for name in sorted(files)
            if name.parts[0] not in _IGNORED
        }
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {reason(error)}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _root(digests: dict[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in digests.values())).hexdigest()
