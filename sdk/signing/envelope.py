"""The envelope: DSSE over an in-toto statement, in a Sigstore bundle, as `model_signing` writes it.

DSSE: https://github.com/secure-systems-lab/dsse (protocol.md); the bundle's media type is
``application/vnd.dev.sigstore.bundle.v0.3+json``. There is one way to write an envelope, and no
other is read: any changed byte of a signature's file is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Self

from pathgene_rt.signing.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True)
class Envelope:
    """``payload`` as it was signed, by the key ``key_id``."""

    payload: bytes
    key_id: str
    signature: bytes

    @classmethod
    def signed(cls, statement: dict[str, Any], key: SigningKey) -> Self:
        payload = json.dumps(statement, indent=2, ensure_ascii=False).encode()
        return cls(payload, key.public.key_id, key.sign(_encoded(payload)))

    def is_by(self, key: PublicKey) -> bool:
        return key.key_id == self.key_id and key.check(self.signature, _encoded(self.payload))

    def to_bytes(self) -> bytes:
        """The file of the signature."""
        document = {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.key_id}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(self.signature).decode(), "keyid": ""}],
            },
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ValueError for whatever is not just what :meth:`to_bytes` writes."""
        try:
            document = json.loads(raw)
            inner = document["dsseEnvelope"]
            envelope = cls(
                base64.b64decode(inner["payload"], validate=True),
                document["verificationMaterial"]["publicKey"]["hint"],
                base64.b64decode(inner["signatures"][0]["sig"], validate=True),
            )
            same = envelope.to_bytes() == raw
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, binascii.Error):
            same = False
        if not same:
            raise ValueError("is no signature of a model by a key, or was changed")
        return envelope

    def statement(self) -> Any:
        """The payload's document. Raises ValueError."""
        return json.loads(self.payload)


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )
