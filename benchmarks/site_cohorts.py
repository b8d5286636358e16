"""Cohorts of a site whose scanner moves what a head says, and what 30 of its slides mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bars import Bar, with_interval
from pathgene_rt.evaluation.recalibration import LogOddsMap, fit_map
from pathgene_rt.evaluation.reliability import calibration_error
from pathgene_rt.geometry import BoolArray

Floats = NDArray[np.float64]

SLIDES, DRAWS, OTHERS = 30, 200, 50_000

EARLIER_RESULTS = 200
"""Of the laboratory, by which it knows its share of positive cases."""


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


@dataclass(frozen=True)
class Design:
    """How slides are chosen, and what is known: ``prevalence`` gives the share of positive cases
    that ``--prevalence`` states, None for none."""

    words: str
    chosen: bool
    prevalence: Callable[[np.random.Generator, Scanner], float | None]


def _counted(random: np.random.Generator, scanner: Scanner) -> float:
    """As a laboratory knows it from EARLIER_RESULTS (with half a case of each class more: none or
    all is no share)."""
    positive = random.binomial(EARLIER_RESULTS, scanner.prevalence)
    return float(positive + 0.5) / (EARLIER_RESULTS + 1)


DESIGNS = (
    Design("15 positive and 15 negative slides, --prevalence", True, lambda _, one: one.prevalence),
    Design(
        f"30 slides as they come, --prevalence of {EARLIER_RESULTS} earlier results",
        False,
        _counted,
    ),
    Design("30 slides as they come", False, lambda *_: None),
)


def site() -> Iterator[Bar]:
    """How often the error halves: of slides chosen by their class, and of slides as they come,
    where the sample's own share of positives adds to the error unless the site's is known. Last,
    what any method can reach that knows nothing of it: one that is told by how much the scanner
    stretches log-odds, and fits the shift alone."""
    for order, design in enumerate(DESIGNS):
        for number, scanner in enumerate(SHIFTED):
            random = np.random.default_rng((31, number, order))
            words, halved = _halved(random, scanner, design, fit_map)
            yield Bar(
                f"{design.words}; {words}",
                f"halved in {with_interval(halved, DRAWS)}",
                "at least 0.90",
                halved >= 0.9 * DRAWS,
            )
    for number, scanner in enumerate(SHIFTED):
        random = np.random.default_rng((31, number, len(DESIGNS)))
        stretch = 1 / scanner.stretch

        def told(
            log_odds: Floats, truth: BoolArray, _: float | None, stretch: float = stretch
        ) -> LogOddsMap:
            return _shift_alone(log_odds, truth, stretch)

        words, halved = _halved(random, scanner, DESIGNS[-1], told)
        yield Bar(
            f"30 slides as they come, told the stretch; {words}",
            f"halved in {with_interval(halved, DRAWS)}",
            "what can be had",
            held=True,
        )


Fit = Callable[[Floats, BoolArray, float | None], LogOddsMap]


def _halved(
    random: np.random.Generator, scanner: Scanner, design: Design, fit: Fit
) -> tuple[str, int]:
    """(the scanner and the errors in words, in how many of DRAWS the error halves)."""
    truth = random.random(OTHERS) < scanner.prevalence
    stated = scanner.draw(random, truth)
    before = calibration_error(1 / (1 + np.exp(-stated)), truth, bins=20)
    after = []
    for _ in range(DRAWS):
        own = np.arange(SLIDES) < SLIDES // 2 if design.chosen else _as_they_come(random, scanner)
        prevalence = design.prevalence(random, scanner)
        fitted = fit(scanner.draw(random, own), own, prevalence)
        after.append(calibration_error(fitted.probabilities(stated), truth, bins=20))
    words = f"{scanner.words}: error {before:.3f}, after {np.median(after):.3f}"
    return words, int(np.sum(np.array(after) <= before / 2))


def _shift_alone(log_odds: Floats, truth: BoolArray, stretch: float) -> LogOddsMap:
    """The most likely shift, by bisection of the likelihood's slope, which is monotone."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        too_high = LogOddsMap(stretch, middle).probabilities(log_odds).sum() > truth.sum()
        low, high = (low, middle) if too_high else (middle, high)
    return LogOddsMap(stretch, middle)


def _as_they_come(random: np.random.Generator, scanner: Scanner) -> BoolArray:
    """The truth of so many slides, with at least three of each class."""
    while True:
        truth: BoolArray = random.random(SLIDES) < scanner.prevalence
        if 3 <= truth.sum() <= SLIDES - 3:
            return truth
