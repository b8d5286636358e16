"""Keys that stay in hardware: a token, card or HSM with PKCS#11, named by a URI (RFC 7512).

``pkcs11:token=Releases;object=2026?module-path=/usr/lib/libhsm.so&pin-source=/etc/hsm.pin``
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, unquote_to_bytes

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason
from pathgene_rt.signing.keys import PublicKey, SigningKey
from pathgene_rt.signing.requirements import require_cryptography, require_pkcs11

if TYPE_CHECKING:
    from pkcs11 import Session, Token

SCHEME = "pkcs11:"
MODULE_VARIABLE = "PATHGENE_RT_PKCS11_MODULE"
PIN_VARIABLE = "PATHGENE_RT_PKCS11_PIN_FILE"

_OF_TOKEN = frozenset({"token", "serial", "manufacturer", "model", "slot-id"})
_OF_KEY = frozenset({"object", "id", "type"})
_QUERY = frozenset({"module-path", "pin-source"})
_P256 = bytes.fromhex("06082a8648ce3d030107")
"""CKA_EC_PARAMS of P-256: the curve's OID in DER (RFC 5480)."""
_MAX_PIN_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class TokenKeyUri:
    """Which key of which token: what is None is not asked for. ``key_id`` is CKA_ID."""

    module: Path
    token: Mapping[str, str]
    label: str | None
    key_id: bytes | None
    pin_file: Path | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError for what is no such URI, a PIN in it, or attributes that are not
        known: one that is passed over might choose another key."""
        path, _, query = text.removeprefix(SCHEME).partition("?")
        said = _attributes(path, ";", _OF_TOKEN | _OF_KEY)
        asked = _attributes(query, "&", _QUERY)
        if said.get("type", "private") != "private":
            raise UsageError("the PKCS#11 URI's type is not private; name the private key")
        if "object" not in said and "id" not in said:
            raise UsageError("the PKCS#11 URI names no key; add object=LABEL or id=%01")
        module = asked.get("module-path") or os.environ.get(MODULE_VARIABLE)
        if not module:
            raise UsageError(
                "the PKCS#11 URI names no module; add ?module-path=/usr/lib/LIBRARY.so, or set "
                f"{MODULE_VARIABLE}"
            )
        pin = asked.get("pin-source") or os.environ.get(PIN_VARIABLE)
        return cls(
            module=Path(unquote(module)),
            token={name: unquote(said[name]) for name in _OF_TOKEN & said.keys()},
            label=unquote(said["object"]) if "object" in said else None,
            key_id=unquote_to_bytes(said["id"]) if "id" in said else None,
            pin_file=None if not pin else Path(unquote(re.sub(r"^file:(//)?(?=/)", "", pin))),
        )

    def pin(self) -> str | None:
        """That in the PIN's file, without the end of its line. Raises UsageError."""
        if self.pin_file is None:
            return None
        try:
            with self.pin_file.open("rb") as file:
                return file.read(_MAX_PIN_BYTES).decode().rstrip("\r\n")
        except OSError as error:
            raise UsageError(
                f"cannot read the PIN's file {self.pin_file}: {reason(error)}"
            ) from error
        except UnicodeDecodeError:
            # Without the cause, which has the bytes.
            raise UsageError(f"{self.pin_file}: holds no PIN in UTF-8") from None


def token_key(text: str) -> SigningKey:
    """The key that the URI ``text`` names: P-256 or Ed25519. It never leaves the token, which is
    opened to find its public half, and again for each signature.

    Raises MissingExtraError, UsageError.
    """
    require_cryptography()
    require_pkcs11()
    uri = TokenKeyUri.parse(text)
    with _session(uri) as session:
        public, kind = _public_key(session, uri)

    def sign(message: bytes) -> bytes:
        with _session(uri) as session:
            made = _signature(session, uri, kind, message)
        if not public.check(made, message):
            raise UsageError(
                f"{_named(uri)} signs, but its public key does not fit; name the pair by id"
            )
        return made

    return SigningKey(public, sign)


def _attributes(text: str, between: str, known: frozenset[str]) -> dict[str, str]:
    """Name and value, still percent-encoded, of each part. Raises UsageError."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(between)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise UsageError(
                "a PIN in a PKCS#11 URI can be read by others of this machine; put it in a file: "
                f"pin-source=FILE, or {PIN_VARIABLE}"
            )
        if not equals or name not in known or name in found:
            raise UsageError(
                f"the PKCS#11 URI has {name!r} twice, without a value, or where it is not known; "
                "use token, serial, manufacturer, model, slot-id, object and id, and after ? "
                "module-path and pin-source"
            )
        found[name] = value
    return found


def _named(uri: TokenKeyUri) -> str:
    label = uri.label if uri.label is not None else f"id {(uri.key_id or b'').hex()}"
    return f"the PKCS#11 key {label}"


@contextmanager
def _session(uri: TokenKeyUri) -> Iterator[Session]:
    """The token, logged in to. Raises UsageError for whatever it does not do."""
    import pkcs11

    try:
        tokens = [one for one in pkcs11.lib(str(uri.module)).get_tokens() if _fits(uri, one)]
        if len(tokens) != 1:
            raise UsageError(
                f"{len(tokens)} tokens of {uri.module} are as the PKCS#11 URI says; it must be one:"
                " name it by token= or serial="
            )
        with tokens[0].open(user_pin=uri.pin()) as session:
            yield session
    except pkcs11.PinIncorrect as error:
        raise UsageError(
            f"the token does not take the PIN in {uri.pin_file}; it locks after a few tries"
        ) from error
    except pkcs11.PKCS11Error as error:
        told = str(error) or type(error).__name__
        hint = "" if uri.pin_file else f"; it may want a PIN: pin-source=FILE, or {PIN_VARIABLE}"
        raise UsageError(f"{_named(uri)} in {uri.module} cannot be used: {told}{hint}") from error


def _fits(uri: TokenKeyUri, token: Token) -> bool:
    """Whether ``token`` is set up, and has what the URI says of it."""
    from pkcs11 import TokenFlag

    if TokenFlag.TOKEN_INITIALIZED not in token.flags:
        return False
    is_as = {
        "token": token.label,
        "serial": token.serial.decode(errors="replace"),
        "manufacturer": token.manufacturer_id,
        "model": token.model,
        "slot-id": str(token.slot.slot_id),
    }
    return all(is_as[name].strip() == value.strip() for name, value in uri.token.items())


def _key(session: Session, uri: TokenKeyUri, what: Any) -> Any:
    return session.get_key(object_class=what, label=uri.label, id=uri.key_id)


def _public_key(session: Session, uri: TokenKeyUri) -> tuple[PublicKey, Any]:
    """The public half and the type of the key. Raises UsageError, PKCS11Error."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from pkcs11 import Attribute, KeyType, ObjectClass

    private = _key(session, uri, ObjectClass.PRIVATE_KEY)
    kind = private.key_type
    known: Any = None
    if kind in (KeyType.EC, KeyType.EC_EDWARDS):
        half = _key(session, uri, ObjectClass.PUBLIC_KEY)
        point = _octets(bytes(half[Attribute.EC_POINT]))
        try:
            if kind is KeyType.EC_EDWARDS:
                known = ed25519.Ed25519PublicKey.from_public_bytes(point)
            elif bytes(half[Attribute.EC_PARAMS]) == _P256:
                known = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except ValueError as error:
            raise UsageError(f"{_named(uri)}: its public key is no point of its curve") from error
    if known is None:
        raise UsageError(f"{_named(uri)} is neither a P-256 nor an Ed25519 key; choose another")
    pem = known.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey.from_pem(pem, _named(uri)), kind


def _octets(point: bytes) -> bytes:
    """CKA_EC_POINT without the OCTET STRING that the standard wraps it in, and not every token."""
    return point[2:] if len(point) > 2 and point[:2] == bytes((4, len(point) - 2)) else point


def _signature(session: Session, uri: TokenKeyUri, kind: Any, message: bytes) -> bytes:
    """As `cryptography` gives it: of ECDSA in DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from pkcs11 import KeyType, Mechanism, ObjectClass

    key = _key(session, uri, ObjectClass.PRIVATE_KEY)
    if kind is KeyType.EC_EDWARDS:
        return bytes(key.sign(message, mechanism=Mechanism.EDDSA))
    # Hashed here: not every token hashes.
    raw = bytes(key.sign(hashlib.sha256(message).digest(), mechanism=Mechanism.ECDSA))
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
