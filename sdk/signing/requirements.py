"""What signatures need."""

from __future__ import annotations

import importlib.util

from pathgene_rt.errors import MissingExtraError


def require_pkcs11() -> None:
    """Raise MissingExtraError unless the extra `pkcs11` is installed."""
    if importlib.util.find_spec("pkcs11") is None:
        raise MissingExtraError(
            "keys in hardware need the package python-pkcs11; install pathgene-rt[pkcs11]"
        )


def require_cryptography() -> None:
    """Raise MissingExtraError unless the extra `sign` is installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtraError(
            "signatures need the package cryptography; install pathgene-rt[sign]"
        )
