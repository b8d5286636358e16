"""What becomes of tiles that a check of quality flags, in training and prediction alike."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

CheckName = Literal["damaged", "out_of_focus", "pen", "bubble", "burnt", "fold"]
CHECK_NAMES: tuple[CheckName, ...] = ("damaged", "out_of_focus", "pen", "bubble", "burnt", "fold")
"""The checks that a policy may name. One that this runtime does not have is refused: it could not
leave out what training left out."""

DEFAULT_CHECKS: tuple[CheckName, ...] = tuple(name for name in CHECK_NAMES if name != "fold")
"""Those that judge a tile by itself. What is denser than the rest of its slide may be a fold or
another tissue: it is left out only where a policy names it."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TilePolicy:
    """``report``: flagged tiles count as the others do, and are told. ``exclude``: those that one
    of ``checks`` flags are left out of the bag that heads see. A slide that would lose more than
    ``max_excluded_share`` 0..1 of its tiles gets no answer, and is not trained on.
    """

    policy: Literal["report", "exclude"] = "report"
    checks: tuple[CheckName, ...] = Field(default=DEFAULT_CHECKS, min_length=1)
    max_excluded_share: float = Field(default=0.3, gt=0, lt=1)

    @field_validator("checks")
    @classmethod
    def _in_order(cls, checks: tuple[CheckName, ...]) -> tuple[CheckName, ...]:
        """Whatever order they are named in, it is the same policy."""
        return tuple(name for name in CHECK_NAMES if name in checks)

    @property
    def excludes(self) -> bool:
        """Whether tiles are left out."""
        return self.policy == "exclude"

    def describe(self) -> str:
        """In words, of what is left out."""
        if not self.excludes:
            return "no tile is left out for its quality"
        return (
            f"tiles are left out that are {', '.join(self.checks)}, at most "
            f"{self.max_excluded_share:.0%} of a slide's"
        )


def excluding(policy: TilePolicy | None) -> TilePolicy | None:
    """``policy`` if tiles are left out by it: where none are, nothing needs to be stated."""
    return policy if policy is not None and policy.excludes else None
