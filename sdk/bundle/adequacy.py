"""How much of a slide there must be for an answer, and how much of it may be unusable."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Adequacy:
    """Limits of a bundle; where a slide misses one, its answers are withheld. None: no limit.

    ``min_tissue_mm2`` is of the tissue that was found (where tiles are named by coordinates none
    is sought), ``min_tiles`` of the slide's tiles that no check of quality flags,
    ``max_unusable_share`` 0..1 of those that one does among those that were looked at.
    """

    min_tissue_mm2: float | None = Field(default=None, gt=0, le=1e6)
    min_tiles: int | None = Field(default=None, ge=1, le=10_000_000)
    max_unusable_share: float | None = Field(default=None, ge=0, lt=1)

    def describe(self) -> str:
        """The limits in words; empty if there are none."""
        words = []
        if self.min_tissue_mm2 is not None:
            words.append(f"at least {self.min_tissue_mm2:g} mm2 of tissue")
        if self.min_tiles is not None:
            words.append(f"at least {self.min_tiles} usable tiles")
        if self.max_unusable_share is not None:
            words.append(f"at most {self.max_unusable_share:.0%} of tiles unusable")
        return ", ".join(words)
