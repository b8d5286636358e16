"""Cohorts of a site whose scanner moves what a head says, and what 30 of its slides mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bars import Bar, with_interval
from pathgene_rt.evaluation.recalibration import fit_map
from pathgene_rt.evaluation.reliability import calibration_error
from pathgene_rt.geometry import BoolArray

Floats = NDArray[np.float64]

SLIDES, DRAWS, OTHERS = 30, 200, 50_000


@dataclass(frozen=True)
class Scanner:
    """Log-odds that are right at ``prevalence`` come out ``stretch`` times as large, plus
    ``shift``; the classes' right log-odds lie ``apart`` deviations apart."""

    shift: float
    stretch: float = 1.0
    prevalence: float = 0.5
    apart: float = 1.5

    def draw(self, random: np.random.Generator, truth: BoolArray) -> Floats:
        """What the head says of cases of ``truth`` bool [n]."""
        seen = random.normal(np.where(truth, self.apart / 2, -self.apart / 2), 1)
        right = self.apart * seen + np.log(self.prevalence / (1 - self.prevalence))
        stated: Floats = self.stretch * right + self.shift
        return stated

    @property
    def words(self) -> str:
        stretched = "" if self.stretch == 1 else f", stretched by {self.stretch:g}"
        return f"log-odds shifted by {self.shift:+g}{stretched}, {self.prevalence:.0%} positive"


SHIFTED = (
    Scanner(2.0),
    Scanner(-1.5, prevalence=0.4),
    Scanner(1.5, prevalence=0.25),
    Scanner(2.0, prevalence=0.15),
    Scanner(1.0, stretch=0.4, apart=2.0),
)


def site() -> Iterator[Bar]:
    """How often the error halves: of slides chosen by their class, and of slides as they come,
    where the sample's own share of positives adds to the error."""
    for chosen in (True, False):
        for number, scanner in enumerate(SHIFTED):
            random = np.random.default_rng((31, number, chosen))
            truth = random.random(OTHERS) < scanner.prevalence
            stated = scanner.draw(random, truth)
            before = calibration_error(1 / (1 + np.exp(-stated)), truth, bins=20)
            after = []
            for _ in range(DRAWS):
                own = np.arange(SLIDES) < SLIDES // 2 if chosen else _as_they_come(random, scanner)
                prevalence = scanner.prevalence if chosen else None
                fitted = fit_map(scanner.draw(random, own), own, prevalence)
                after.append(calibration_error(fitted.probabilities(stated), truth, bins=20))
            halved = int(np.sum(np.array(after) <= before / 2))
            how = "15 positive and 15 negative slides" if chosen else "30 slides as they come"
            yield Bar(
                f"{how}; {scanner.words}: error {before:.3f}, after {np.median(after):.3f}",
                f"halved in {with_interval(halved, DRAWS)}",
                "at least 0.90",
                halved >= 0.9 * DRAWS,
            )


def _as_they_come(random: np.random.Generator, scanner: Scanner) -> BoolArray:
    """The truth of so many slides, with at least three of each class."""
    while True:
        truth: BoolArray = random.random(SLIDES) < scanner.prevalence
        if 3 <= truth.sum() <= SLIDES - 3:
            return truth
