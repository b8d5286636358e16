"""What training needs beyond the runtime, asked for before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from pathgene_rt.errors import MissingExtraError

_PACKAGES = ("torch", "sklearn", "imagecodecs")


def require_training() -> None:
    """Raise :class:`MissingExtraError`, naming the extra to install, if a package is absent."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"training needs {', '.join(missing)}; run pip install 'pathgene-rt[train]'"
        )
