"""Which shared libraries with slide readers there are: paths only, nothing is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from pathgene_rt.errors import UsageError

VARIABLE = "PATHGENE_RT_READERS"
"""The environment variable that names libraries, between the separators of PATH."""

_added: list[Path] = []


def reader_libraries() -> tuple[Path, ...]:
    """Those of the environment, and those that were added, each once."""
    named = (Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one)
    return tuple(dict.fromkeys((*named, *_added)))


def remember_library(library: Path) -> None:
    """Have :func:`reader_libraries` give ``library`` too. Raises UsageError if it is no file."""
    if not library.is_file():
        raise UsageError(f"{library}: no such library of slide readers; check the path")
    _added.append(library.absolute())


def as_variable() -> str:
    """What another process finds them by, in ``VARIABLE``."""
    return os.pathsep.join(map(str, reader_libraries()))
