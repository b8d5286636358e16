"""Versions of installed packages, which stay what they are while a process runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


@cache
def package_version(name: str) -> str:
    """Of the package ``name``: its metadata take milliseconds to read, and each slide's report
    asks for some. Raises :class:`importlib.metadata.PackageNotFoundError`."""
    return version(name)
