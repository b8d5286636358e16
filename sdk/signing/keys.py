"""Keys that sign: ECDSA over P-256, which `model_signing` takes too, or Ed25519. PEM files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pathgene_rt.errors import OutputError, UsageError
from pathgene_rt.files import reason, write_bytes
from pathgene_rt.signing.requirements import require_cryptography

KEY_VARIABLE = "PATHGENE_RT_SIGNING_KEY"
KeyKind = Literal["p256", "ed25519"]
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class PublicKey:
    """``key_id`` is the SHA-256 of its PEM (SubjectPublicKeyInfo), as `model_signing` has it."""

    key_id: str
    pem: bytes = field(repr=False)
    check: Callable[[bytes, bytes], bool] = field(repr=False, compare=False)
    """Whether (signature, message) go together."""

    @classmethod
    def from_pem(cls, pem: bytes, where: str) -> Self:
        """Raises UsageError for what is no such key."""
        require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            return cls._of(load_pem_public_key(pem), where)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{where}: is no public key in PEM; give keygen's .pub") from error

    @classmethod
    def _of(cls, key: Any, where: str) -> Self:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        arguments: tuple[Any, ...]
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            arguments = (ec.ECDSA(SHA256()),)
        elif isinstance(key, ed25519.Ed25519PublicKey):
            arguments = ()
        else:
            raise UsageError(f"{where}: is neither a P-256 nor an Ed25519 key; make one by keygen")

        def check(signature: bytes, message: bytes) -> bool:
            try:
                key.verify(signature, message, *arguments)
            except InvalidSignature:
                return False
            return True

        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(pem).hexdigest(), pem, check)


@dataclass(frozen=True)
class SigningKey:
    """A private key: in memory and its file, or in hardware that only signs with it."""

    public: PublicKey
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """That in the file ``path``. Raises UsageError."""
        require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            with path.open("rb") as file:
                private: Any = load_pem_private_key(file.read(_MAX_BYTES), None)
        except OSError as error:
            raise UsageError(f"cannot read the key {path}: {reason(error)}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError(
                f"{path}: is no private key in PEM without a passphrase; make one by keygen"
            ) from error
        public = PublicKey._of(private.public_key(), str(path))
        arguments = (ec.ECDSA(SHA256()),) if hasattr(private, "curve") else ()
        return cls(public, lambda message: bytes(private.sign(message, *arguments)))


def make_key(path: Path, kind: KeyKind) -> PublicKey:
    """Write a new private key to ``path``, which only its owner can read, and the public one to
    ``path``.pub. Raises OutputError, also if either is there."""
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    for one in (path, _public_path(path)):
        _require_none(one)
    private: Any
    if kind == "p256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {reason(error)}; choose another place") from error
    public = PublicKey._of(private.public_key(), str(path))
    write_public(public, path)
    return public


def write_public(public: PublicKey, path: Path) -> Path:
    """Write the public half of the key ``path`` beside it, where it would be. Raises OutputError,
    also if it is there."""
    written = _public_path(path)
    _require_none(written)
    write_bytes(written, public.pem)
    return written


def _public_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def _require_none(path: Path) -> None:
    if path.exists():
        raise OutputError(f"{path}: is there already; keys are never replaced: move it away")
