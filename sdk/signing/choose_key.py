"""Which key signs: in a file or in hardware, as a command or the environment names it."""

from __future__ import annotations

import os
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.signing.keys import KEY_VARIABLE, SigningKey
from pathgene_rt.signing.token_key import SCHEME, token_key


def choose_key(named: str | None) -> SigningKey:
    """The key ``named``, a PEM file or a PKCS#11 URI, else the one that PATHGENE_RT_SIGNING_KEY
    names likewise. Raises UsageError, MissingExtraError.
    """
    text = named or os.environ.get(KEY_VARIABLE)
    if not text:
        raise UsageError(
            f"no key to sign with; give --key FILE (or pkcs11:...), or set {KEY_VARIABLE}"
        )
    return token_key(text) if text.startswith(SCHEME) else SigningKey.from_file(Path(text))
