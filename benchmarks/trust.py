"""Whether what a bundle states of its answers holds: figures with intervals, one line a bar.

    python benchmarks/trust.py zones        decision zones over resampled cohorts

Each part prints a Markdown table and ends with exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pathgene_rt.errors import UsageError
from pathgene_rt.training.config import ZonesConfig
from pathgene_rt.training.protocol.exact import two_sided
from pathgene_rt.training.protocol.metrics import Floats
from pathgene_rt.training.protocol.zones import CaseScores, fit_zones

COHORTS = 1000
SLACK = 0.02
"""How much less often than 1 - alpha a statement may hold in so many cohorts."""


@dataclass(frozen=True)
class Bar:
    """One line of a table: what was measured against what."""

    what: str
    measured: str
    bar: str
    held: bool


def zones() -> Iterator[Bar]:
    """Cohorts drawn from a large population of known scores: what is stated against what is so."""
    populations = {
        "well apart": _normal(2.5),
        "apart": _normal(1.5),
        "hardly apart": _normal(0.5),
        "skewed, rounded to 0.01": _rounded,
    }
    tolerance = ZonesConfig(sensitivity=0.95, specificity=0.90)
    conformal = ZonesConfig(method="conformal", sensitivity=0.9, specificity=0.9)
    predictive = ZonesConfig(npv=0.95, ppv=0.7, prevalence=0.25)
    for name, draw in populations.items():
        yield from _held(name, draw, tolerance, (100, 150))
        yield from _covered(name, draw, conformal, (40, 60))
    for name in ("well apart", "apart"):
        yield from _held(name, populations[name], predictive, (150, 250))
    yield _refused(ZonesConfig(sensitivity=0.95), 10)
    yield _refused(ZonesConfig(specificity=0.9), 10)
    yield _refused(ZonesConfig(npv=0.95, prevalence=0.25), 10)


Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""n positive and n negative scores."""


def _normal(apart: float) -> Draw:
    def draw(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        logits = random.normal(apart, 1, n), random.normal(0, 1, n)
        positive, negative = (1 / (1 + np.exp(-each)) for each in logits)
        return positive, negative

    return draw


def _rounded(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Ties: probabilities of two digits."""
    return np.round(random.beta(3, 1.5, n), 2), np.round(random.beta(1, 4, n), 2)


def _held(name: str, draw: Draw, config: ZonesConfig, sizes: tuple[int, int]) -> Iterator[Bar]:
    """How often each statement of ``config`` is so; of a cut-off that is not set nothing is."""
    random = np.random.default_rng(11)
    population = draw(random, 200_000)
    held: dict[str, int] = dict.fromkeys((measure for measure, _ in config.measures), 0)
    saved = []
    for _ in range(COHORTS):
        found, _ = fit_zones(config, _cohort(random, population, sizes))
        low, high = (found.low, found.high) if found else (0.0, float("inf"))
        true = _true_shares(population, low, high, config.prevalence or 0.5)
        for measure, share in config.measures:
            held[measure] += true[measure] >= share
        saved.append(true["saved"])
    for measure, share in config.measures:
        yield Bar(
            f"{measure} at least {share:g} ({name}; {sizes[0]} + {sizes[1]} cases; decided "
            f"{np.mean(saved):.0%})",
            _share(held[measure], COHORTS),
            f"at least {config.confidence - SLACK:.2f}",
            held[measure] / COHORTS >= config.confidence - SLACK,
        )


def _covered(name: str, draw: Draw, config: ZonesConfig, sizes: tuple[int, int]) -> Iterator[Bar]:
    """The share of new cases of each class that are not called the other, over all cohorts."""
    random = np.random.default_rng(12)
    population = draw(random, 200_000)
    shares: dict[str, list[float]] = {measure: [] for measure, _ in config.measures}
    for _ in range(COHORTS):
        found, _ = fit_zones(config, _cohort(random, population, sizes))
        low, high = (found.low, found.high) if found else (0.0, float("inf"))
        true = _true_shares(population, low, high, 0.5)
        for measure, found_shares in shares.items():
            found_shares.append(true[measure])
    for measure, share in config.measures:
        mean = float(np.mean(shares[measure]))
        error = 1.96 * float(np.std(shares[measure])) / COHORTS**0.5
        yield Bar(
            f"conformal {measure} {share:g} ({name}; {sizes[0]} + {sizes[1]} cases)",
            f"{mean:.4f} ({mean - error:.4f} to {mean + error:.4f})",
            f"at least {share - SLACK:.2f}",
            mean >= share - SLACK,
        )


def _refused(config: ZonesConfig, cases: int) -> Bar:
    random = np.random.default_rng(13)
    population = _normal(4)(random, 1000)
    measure, share = config.measures[0]
    try:
        fit_zones(config, _cohort(random, population, (cases, cases)))
        words = ""
    except UsageError as error:
        words = str(error)
    return Bar(
        f"{measure} {share:g} from {cases} cases of each class",
        "refused" if words else "not refused",
        "refused",
        "cannot show" in words,
    )


def _cohort(
    random: np.random.Generator, population: tuple[Floats, Floats], sizes: tuple[int, int]
) -> CaseScores:
    chosen = [random.choice(each, n) for each, n in zip(population, sizes, strict=True)]
    truth = np.repeat([True, False], sizes)
    return CaseScores.of(
        np.concatenate(chosen).tolist(), truth.tolist(), map(str, range(sum(sizes)))
    )


def _true_shares(
    population: tuple[Floats, Floats], low: float, high: float, prevalence: float
) -> dict[str, float]:
    """In the population; a predictive value of nobody is 1."""
    missed, out = (float((each < low).mean()) for each in population)
    found, wrong = (float((each >= high).mean()) for each in population)
    negatives = (1 - prevalence) * out + prevalence * missed
    positives = prevalence * found + (1 - prevalence) * wrong
    return {
        "sensitivity": 1 - missed,
        "specificity": 1 - wrong,
        "npv": (1 - prevalence) * out / negatives if negatives else 1.0,
        "ppv": prevalence * found / positives if positives else 1.0,
        "saved": negatives + positives,
    }


def _share(right: int, count: int) -> str:
    low, high = two_sided(right, count)
    return f"{right / count:.3f} ({low:.3f} to {high:.3f})"


PARTS: dict[str, Callable[[], Iterator[Bar]]] = {"zones": zones}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    missed = 0
    print("| what | measured (95 % interval) | bar | |\n|---|---|---|---|")
    for part in parser.parse_args().parts or PARTS:
        for bar in PARTS[part]():
            print(f"| {bar.what} | {bar.measured} | {bar.bar} | {'' if bar.held else 'MISSED'} |")
            missed += not bar.held
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
