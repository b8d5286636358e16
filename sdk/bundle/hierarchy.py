"""Coarse classes that a head's classes belong to, for when the finer one is uncertain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.calibration import Activation


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Hierarchy:
    """``groups`` are coarse classes with the exclusive classes that they consist of. A class is
    called where its probability is ``at_least`` so much, else its group where that of all its
    classes is, else nothing."""

    groups: dict[str, tuple[str, ...]] = Field(min_length=1)
    at_least: float = Field(ge=0.5, lt=1)

    def describe(self) -> str:
        """In words."""
        groups = "; ".join(f"{name}: {', '.join(own)}" for name, own in self.groups.items())
        return f"called from {self.at_least:g} on, else by group ({groups})"


def hierarchy_problems(
    hierarchy: Hierarchy, classes: Sequence[str], activation: Activation | None
) -> Iterator[str]:
    """What of ``hierarchy`` cannot be, of a head with ``classes``."""
    if activation != "softmax" or len(classes) < 3:
        yield "has a hierarchy, which is for three or more classes that exclude each other"
    members = [name for own in hierarchy.groups.values() for name in own]
    if sorted(members) != sorted(classes):
        odd = sorted(set(members) ^ set(classes)) or sorted(
            {name for name in members if members.count(name) > 1}
        )
        yield f"has a hierarchy in which {odd[0]!r} is missing, unknown or twice"
    for name, own in hierarchy.groups.items():
        if name in classes and own != (name,):
            yield f"has a group called {name!r} as one of its classes"
