"""A signature of a trail's end: whoever makes the trail anew cannot make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathgene_rt.audit.chain import Head
from pathgene_rt.audit.verify import verify_trail
from pathgene_rt.errors import BundleError, UsageError, VerificationError
from pathgene_rt.files import write_bytes
from pathgene_rt.signing.envelope import Envelope
from pathgene_rt.signing.keyring import Keyring, TrustedKey
from pathgene_rt.signing.keys import SigningKey
from pathgene_rt.signing.verify import accepted, read_envelope, signature_path

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:pathgene-rt:audit-head:v1"


def sign_trail(trail: Path, key: SigningKey) -> Path:
    """Verify ``trail`` and write the signature of its last line beside it, in the place of an
    earlier one. Raises VerificationError, UsageError, OutputError."""
    verify_trail(trail)
    head = Head.read(trail)
    if head is None or not head.sequence:
        raise UsageError(f"{trail} has no line yet; there is nothing to sign")
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": trail.name, "digest": {"sha256": head.sha256}}],
        "predicateType": _PREDICATE,
        "predicate": {"sequence": head.sequence},
    }
    target = signature_path(trail)
    write_bytes(target, Envelope.signed(statement, key).to_bytes())
    return target


def signed_line(trail: Path, keyring: Keyring) -> tuple[TrustedKey, int, str]:
    """Who signed ``trail`` when, by its lines: (key, number of the line, its hash), which must then
    be in the trail. Raises VerificationError."""
    where = signature_path(trail)
    try:
        envelope = read_envelope(where, trail)
        key = accepted(envelope, keyring, where)
        statement: Any = envelope.statement()
        (subject,) = statement["subject"]
        sequence, digest = statement["predicate"]["sequence"], subject["digest"]["sha256"]
        if statement["predicateType"] != _PREDICATE or subject["name"] != trail.name:
            raise ValueError
    except BundleError as error:
        raise VerificationError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"the signature {where} is not of this audit trail") from error
    return key, int(sequence), str(digest)
