"""Names of files that there is one of for each head."""

from __future__ import annotations

import re
from collections.abc import Iterable


def head_file_names(heads: Iterable[str], prefix: str, ending: str) -> list[str]:
    """``prefix`` HEAD ``ending`` for each: the bundle's names may hold what no file name may."""
    names: list[str] = []
    for head in heads:
        name = stem = f"{prefix}{re.sub(r'[^A-Za-z0-9._-]', '_', head)}"
        number = 1
        while f"{name}{ending}".casefold() in (taken.casefold() for taken in names):
            number += 1
            name = f"{stem}_{number}"
        names.append(f"{name}{ending}")
    return names
