"""What a manifest says of the description of the features that its heads were trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

DOMAIN_FILE = "domain.npz"

DomainPolicy = Literal["report", "withhold"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DomainSpec:
    """``file`` holds the arrays of :class:`~pathgene_rt.features.domain.DomainDescription`. Of a
    slide that is less like those of training than all but the share ``alarm`` of them, the report
    warns; with the policy "withhold" its answers are withheld.
    """

    file: str
    policy: DomainPolicy = "report"
    alarm: float = Field(default=0.05, gt=0, lt=0.5)
