"""What a head's decision zones are to hold, as those who set them state it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from pathgene_rt.bundle.zones import CutOffMeasure


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ZonesConfig:
    """What the cut-offs of a head's decision zones are to hold: ``sensitivity`` or ``npv`` where
    the class is ruled out, ``specificity`` or ``ppv`` where it is ruled in; predictive values at
    ``prevalence``.

    "tolerance" holds with ``confidence``; "conformal" on average over cohorts, for sensitivity and
    specificity.
    """

    method: Literal["tolerance", "conformal"] = "tolerance"
    sensitivity: float | None = Field(default=None, gt=0, lt=1)
    specificity: float | None = Field(default=None, gt=0, lt=1)
    npv: float | None = Field(default=None, gt=0, lt=1)
    ppv: float | None = Field(default=None, gt=0, lt=1)
    prevalence: float | None = Field(default=None, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for one, two in (("sensitivity", "npv"), ("specificity", "ppv")):
            if getattr(self, one) is not None and getattr(self, two) is not None:
                raise ValueError(f"{one} and {two} are two cut-offs for one thing; keep one")
        if not self.measures:
            raise ValueError("state sensitivity or npv, specificity or ppv, or one of each")
        predictive = self.npv is not None or self.ppv is not None
        if predictive and self.method == "conformal":
            raise ValueError("conformal zones hold sensitivity and specificity, not npv and ppv")
        if predictive != (self.prevalence is not None):
            raise ValueError("npv and ppv need the prevalence where they are to hold, others none")
        return self

    @property
    def measures(self) -> tuple[tuple[CutOffMeasure, float], ...]:
        """What is stated, and how much of it."""
        names: tuple[CutOffMeasure, ...] = ("sensitivity", "npv", "specificity", "ppv")
        stated = ((name, getattr(self, name)) for name in names)
        return tuple((name, share) for name, share in stated if share is not None)
