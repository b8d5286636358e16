"""What archives need beyond the runtime, asked for before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from pathgene_rt.errors import MissingExtraError


def require_ray() -> None:
    """Raise :class:`MissingExtraError` if Ray is absent."""
    _require("ray", "an archive's workers need Ray")


def require_parquet(what: str) -> None:
    """Raise :class:`MissingExtraError` if pyarrow, which ``what`` needs, is absent."""
    _require("pyarrow", f"{what} needs pyarrow")


def _require(package: str, words: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError(f"{words}; run pip install 'pathgene-rt[ray]'")
