"""Programs and packages that tests meet: missing ones are a reason to skip, but not in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

ALL_TOOLS = "PATHGENE_RT_ALL_TOOLS"
"""Set by ``.ci/run``, which installs them all."""


def require_program(name: str, package: str) -> Path:
    """The program ``name``, which Debian's ``package`` brings."""
    found = shutil.which(name)
    if found is None:
        _missing(f"there is no {name} (apt-get install {package})")
    return Path(str(found))


def require_package(name: str) -> None:
    """The Python package ``name``, which the extra dev brings."""
    if importlib.util.find_spec(name) is None:
        _missing(f"{name} is not installed (pip install pathgene-rt[dev])")


def _missing(what: str) -> None:
    if os.environ.get(ALL_TOOLS):
        pytest.fail(f"{what}, and here everything is to be tested", pytrace=False)
    pytest.skip(what)
