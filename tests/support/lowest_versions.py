"""Constraints of the lowest versions that pyproject.toml allows, for ``make test-lowest``.

    python -m tests.support.lowest_versions cpu jpeg2000 > lowest.txt

Of what is required always and of the extras that are named; markers are left to pip.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from tests.support.paths import ROOT


def lowest_versions(extras: Sequence[str]) -> Iterator[str]:
    """A line ``name==version`` a requirement, with the version that its ``>=`` states."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [project["dependencies"], *(project["optional-dependencies"][one] for one in extras)]
    for line in (line for lines in stated for line in lines):
        requirement = Requirement(line)
        floors = [part.version for part in requirement.specifier if part.operator == ">="]
        if len(floors) != 1:
            raise SystemExit(f"{line!r} states no lowest version; say >= VERSION")
        yield f"{requirement.name}=={floors[0]}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lowest_versions(sys.argv[1:]))
