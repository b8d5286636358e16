"""What signatures need."""

from __future__ import annotations

import importlib.util

from pathgene_rt.errors import MissingExtraError


def require_cryptography() -> None:
    """Raise MissingExtraError unless the extra `sign` is installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtraError(
            "signatures need the package cryptography; install pathgene-rt[sign]"
        )
