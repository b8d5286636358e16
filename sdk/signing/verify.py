"""Signs a file or folder, and says who signed one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pathgene_rt.errors import BundleError
from pathgene_rt.files import reason, write_bytes
from pathgene_rt.signing.envelope import Envelope
from pathgene_rt.signing.keyring import Keyring, TrustedKey, today
from pathgene_rt.signing.keys import SigningKey
from pathgene_rt.signing.statement import WHOLE, file_digests, stated_digests, statement_of

SUFFIX = ".sig"
_MAX_BYTES = 64 << 20


def signature_path(path: Path) -> Path:
    """Where the signature of ``path`` lies: beside it, never in it."""
    whole = path.absolute()
    return whole.with_name(f"{whole.name}{SUFFIX}")


def sign(path: Path, key: SigningKey) -> Path:
    """Write the signature of the file or folder ``path`` beside it. Raises FileAccessError,
    OutputError."""
    target = signature_path(path)
    write_bytes(target, Envelope.signed(statement_of(path), key).to_bytes())
    return target


def signer_of(path: Path, keyring: Keyring, only: Collection[str] = ()) -> tuple[TrustedKey, Any]:
    """Who signed ``path``, and the hash of each file that was signed, after all of it was checked:
    the key counts today, the signature is its, and every file is as it was signed.

    A file that was not signed is refused, too, unless ``only`` names those that are ever read.
    Raises BundleError with what is wrong; FileAccessError.
    """
    where = signature_path(path)
    envelope = read_envelope(where, path)
    key = accepted(envelope, keyring, where)
    try:
        signed = stated_digests(envelope.statement())
    except ValueError as error:
        raise BundleError(f"the signature {where} {error}; sign it again") from error
    found = file_digests(path)
    if only:
        found = {name: digest for name, digest in found.items() if name in only or name in signed}
    if found != signed:
        differing = sorted(set(found.items()) ^ set(signed.items()))[0][0]
        what = path.name if differing == WHOLE else f"{differing} in {path.name}"
        raise BundleError(
            f"{path}: {what} is not as {key.name} signed it; get the bundle again, from its maker"
        )
    return key, signed


def read_envelope(where: Path, of: Path) -> Envelope:
    """The signature in the file ``where``. Raises BundleError."""
    try:
        with where.open("rb") as file:
            raw = file.read(_MAX_BYTES)
    except FileNotFoundError as error:
        raise BundleError(
            f"{of}: is not signed: there is no {where.name} beside it; get it from the maker"
        ) from error
    except OSError as error:
        raise BundleError(f"cannot read the signature {where}: {reason(error)}") from error
    try:
        return Envelope.parse(raw)
    except ValueError as error:
        raise BundleError(f"the signature {where} {error}; get it again") from error


def accepted(envelope: Envelope, keyring: Keyring, where: Path) -> TrustedKey:
    """The key of ``keyring`` that signed ``envelope``. Raises BundleError if none did, or if that
    does not count today."""
    key = keyring.find(envelope.key_id)
    if key is None:
        raise BundleError(
            f"the signature {where} is by a key that {keyring.path} does not have: "
            f"{str(envelope.key_id)[:64]}"
        )
    refusal = key.refusal(today())
    if refusal:
        raise BundleError(f"the signature {where} does not count: {refusal}")
    if not envelope.is_by(key.public):
        raise BundleError(f"the signature {where} is not by {key.name}: it was changed")
    return key
