"""The installed packages that have a part in what is predicted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = "pathgene-rt"
_OF_MAKERS = frozenset({"export", "train", "dev", "int8", "ray"})
"""Extras of those who make models; no part of what a hospital runs."""


def installed() -> dict[str, Distribution]:
    """Every installed package by its normalised name; of several the first on the path, which is
    the one that is imported."""
    found: dict[str, Distribution] = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), one)
    return found


def runtime_distributions(found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Those of ``found`` that pathgene-rt needs to predict, directly or not, with the extras of
    its runtime as far as they are installed; itself first."""
    kept: dict[str, Distribution] = {}
    waiting = deque([ROOT])
    while waiting:
        name = waiting.popleft()
        if name in kept or name not in found:
            continue
        kept[name] = found[name]
        waiting.extend(requirements(found[name], extras=name == ROOT))
    return kept


def requirements(one: Distribution, *, extras: bool) -> Iterator[str]:
    """Normalised names of what ``one`` requires here; with ``extras`` also what its extras do, but
    those of makers of models."""
    stated = one.metadata.get_all("Provides-Extra") or []
    chosen = [extra for extra in stated if extra not in _OF_MAKERS] if extras else []
    for text in one.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of an old package
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *chosen)):
            yield canonicalize_name(requirement.name)
