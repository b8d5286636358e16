"""How the heads of a panel depend on each other: an exon is only where its gene is mutated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Requirement:
    """``head`` is only called where the head ``needs`` is called ``called``, one of its classes."""

    head: str = Field(min_length=1, max_length=120)
    needs: str = Field(min_length=1, max_length=120)
    called: str = Field(min_length=1)


def panel_problems(
    panel: Sequence[Requirement], classes: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """What of ``panel`` cannot be, of heads with ``classes`` by name."""
    needed = {one.head: one.needs for one in panel}
    if len(needed) < len(panel):
        yield "the panel says of one head twice what it needs"
    for one in panel:
        for name in (one.head, one.needs):
            if name not in classes:
                yield f"the panel names the head {name}, which is not there"
        if one.called not in classes.get(one.needs, (one.called,)):
            yield f"the panel wants {one.needs} called {one.called!r}, which is none of its classes"
        seen, at = {one.head}, one.needs
        while at in needed and at not in seen:
            seen.add(at)
            at = needed[at]
        if at in seen:
            yield f"the panel needs {one.head} for itself"
