"""Whether what a bundle states of its answers holds: figures with intervals, one line a bar.

    python -m benchmarks.trust zones        decision zones over resampled cohorts
    python -m benchmarks.trust quality      artefacts on tiles of a real slide (../shared/slides)
    python -m benchmarks.trust domain       likeness to the slides of training
    python -m benchmarks.trust site         calibration on 30 slides of a shifted scanner
    python -m benchmarks.trust monitor      false alarms and alarms of histories of slides

Each part prints a Markdown table and ends with exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.artefacts import FOLDS, KINDS, LIKE_EOSIN, ink_arc
from benchmarks.bars import Bar, with_interval
from benchmarks.domain_cohorts import (
    MemoryBags,
    SeededEncoder,
    bag_of,
    drawn_slides,
    gaussian_slides,
    heavy_jpeg,
    labelled,
    like_ihc,
    other_stain,
)
from benchmarks.domain_peers import wsidrift_on
from benchmarks.histories import monitoring
from benchmarks.site_cohorts import site
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.metrics import Floats, auroc
from pathgene_rt.evaluation.zones import CaseScores, fit_zones
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.features.describe_domain import describe_domain
from pathgene_rt.features.domain import DomainDescription
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.quality.bubble import BUBBLE_SHARE, BubbleTiles
from pathgene_rt.quality.burnt import BURNT_SHARE, BurntTiles
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.focus import LEAST_SHARPNESS, OutOfFocusTiles
from pathgene_rt.quality.fold import FoldTiles
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.quality.pen import PEN_SHARE, PenTiles
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.training.synthetic.tissue import Pattern, Texture, draw_tissue

COHORTS = 1000
SLACK = 0.02
"""How much less often than 1 - alpha a statement may hold in so many cohorts."""


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
            with_interval(held[measure], COHORTS),
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


SLIDE = Path(__file__).resolve().parents[2] / "shared" / "slides" / "cmu-1-small-region.svs"

SEEDS = 100
"""Generated tiles of each stain and pattern: a fault in 200 is found."""

TILE_S = 1 / 63
"""What a tile costs `predict` on two cores, CTransPath in bfloat16 (docs/cpu.md)."""


def quality() -> Iterator[Bar]:
    """Each kind of artefact against the clean tiles of the same slide, by the measure of its check;
    clean tiles that any check flags; what all checks cost."""
    with open_slide(SLIDE) as slide:
        mpp, (wide, high) = slide_mpp(slide.info), slide.info.size_px
        picture = slide.read((0, 0), 0, (wide, high))
    tiles = [
        np.ascontiguousarray(picture[y : y + 256, x : x + 256])
        for y in range(64, high - 255, 192)
        for x in range(64, wide - 255, 192)
        if (np.ptp(picture[y : y + 256 : 4, x : x + 256 : 4], axis=-1) > 20).mean() > 0.4
    ]
    measures = _measures(CheckedSlide("slide", mpp, None))
    for check, kinds in KINDS.items():
        clean = [measures[check](tile) for tile in tiles]
        for number, (name, make) in enumerate(kinds.items()):
            random = np.random.default_rng(100 + number)
            made = [measures[check](make(tile, random, mpp)) for tile in tiles]
            area, low, high_end = _auroc(made, clean)
            yield Bar(
                f"{check}: {name} ({len(made)} tiles, {_flagged(check, made):.0%} flagged)",
                f"AUROC {area:.3f} ({low:.3f} to {high_end:.3f})",
                "at least 0.95",
                area >= 0.95,
            )
    clean = [measures["pen"](tile) for tile in tiles]
    for number, (name, colour) in enumerate(LIKE_EOSIN.items()):
        random = np.random.default_rng(150 + number)
        made = [measures["pen"](ink_arc(colour)(tile, random, mpp)) for tile in tiles]
        area, low, high_end = _auroc(made, clean)
        yield Bar(
            f"pen: {name} ink, of eosin's hues ({len(made)} tiles, {_flagged('pen', made):.0%} "
            "flagged)",
            f"AUROC {area:.3f} ({low:.3f} to {high_end:.3f})",
            "how far it goes",
            held=True,
        )
    yield from _folds(tiles, mpp)
    yield _clean("CMU-1, JPEG", tiles, mpp)
    overlapping = [
        np.ascontiguousarray(picture[y : y + 256, x : x + 256])
        for y in range(0, high - 255, 48)
        for x in range(0, wide - 255, 48)
        if (np.ptp(picture[y : y + 256 : 4, x : x + 256 : 4], axis=-1) > 20).mean() > 0.25
    ]
    yield _clean("CMU-1, JPEG, all of its tissue, every 48 px (overlapping)", overlapping, mpp)
    for hematoxylin, eosin in ((0.6, 1), (1, 0.6), (1, 1), (1.4, 1), (1, 1.4), (1.3, 1.3)):
        generated = _generated(hematoxylin, eosin)
        yield _clean(f"generated, hematoxylin x {hematoxylin}, eosin x {eosin}", generated, 0.5)
    inspection = TileInspection(CheckedSlide("slide", mpp, len(tiles)))
    costs = []
    for _ in range(5):
        began = time.thread_time()
        for row, tile in enumerate(tiles):
            inspection.look(CheckedTile(row, (0, 0), tile))
        costs.append((time.thread_time() - began) / len(tiles))
    cost = min(costs)
    yield Bar(
        "all checks, share of what a tile costs predict",
        f"{cost / TILE_S:.1%} ({cost * 1e6:.0f} us of CPU, least of 5)",
        "under 3 %",
        cost / TILE_S < 0.03,
    )


def _folds(tiles: Sequence[UInt8Array], mpp: float) -> Iterator[Bar]:
    """Folds against the slide's other tiles, which also say what is dense on it."""
    check = FoldTiles(CheckedSlide("slide", mpp, None))
    clean = [check.measure(CheckedTile(0, (0, 0), tile)) for tile in tiles]
    limit = check.limit(np.array(clean, np.float32))
    for number, (name, make) in enumerate(FOLDS.items()):
        random = np.random.default_rng(170 + number)
        folded = [make(tile, tiles, random, mpp) for _ in range(3) for tile in tiles]
        made = [check.measure(CheckedTile(0, (0, 0), tile)) for tile in folded]
        area, low, high = _auroc(made, clean)
        flagged = float(np.mean(np.array(made) >= limit))
        yield Bar(
            f"fold: {name} ({len(made)} on {len(tiles)} tiles, {flagged:.0%} flagged)",
            f"AUROC {area:.3f} ({low:.3f} to {high:.3f})",
            "at least 0.95",
            area >= 0.95,
        )


def _measures(slide: CheckedSlide) -> dict[str, Callable[[UInt8Array], float]]:
    """What each check compares with its limit; more is worse."""
    focus, pen = OutOfFocusTiles(slide), PenTiles(slide)
    bubble, burnt = BubbleTiles(slide), BurntTiles(slide)
    return {
        "out_of_focus": lambda rgb: -(focus.sharpness(rgb) or 1.0),
        "pen": lambda rgb: pen.share(CheckedTile(0, (0, 0), rgb)),
        "bubble": lambda rgb: bubble.share(CheckedTile(0, (0, 0), rgb)),
        "burnt": lambda rgb: burnt.share(CheckedTile(0, (0, 0), rgb)),
    }


_LIMITS = {
    "out_of_focus": -LEAST_SHARPNESS,
    "pen": PEN_SHARE,
    "bubble": BUBBLE_SHARE,
    "burnt": BURNT_SHARE,
}


def _flagged(check: str, made: list[float]) -> float:
    return float(np.mean(np.array(made) >= _LIMITS[check]))


def _clean(name: str, tiles: Sequence[UInt8Array], mpp: float) -> Bar:
    inspection = TileInspection(CheckedSlide("slide", mpp, len(tiles)))
    for row, tile in enumerate(tiles):
        inspection.look(CheckedTile(row, (0, 0), tile))
    lost = int(inspection.of_rows(np.arange(len(tiles))).unusable.sum())
    return Bar(
        f"clean tiles flagged: {name}",
        f"{with_interval(lost, len(tiles))} of {len(tiles)}",
        "at most 0.5 %",
        lost <= 0.005 * len(tiles),
    )


def _generated(hematoxylin: float, eosin: float) -> list[UInt8Array]:
    found = []
    for pattern in Pattern:
        texture = Texture(pattern, hematoxylin=hematoxylin, eosin=eosin)
        for seed in range(SEEDS):
            found.append(draw_tissue(256, texture, 0.5, np.random.default_rng(seed)))
    return found


def _auroc(bad: list[float], good: list[float]) -> tuple[float, float, float]:
    """The area with its 95 % bootstrap interval over tiles."""
    truth = np.repeat([True, False], [len(bad), len(good)])
    values = np.array([*bad, *good])
    random = np.random.default_rng(0)
    draws = np.concatenate(
        [
            random.multinomial(len(bad), np.full(len(bad), 1 / len(bad)), 1000),
            random.multinomial(len(good), np.full(len(good), 1 / len(good)), 1000),
        ],
        axis=1,
    ).astype(np.float64)
    drawn = auroc(truth, values, draws)
    whole = auroc(truth, values, np.ones((1, len(values))))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(whole[0]), float(low), float(high)


def domain() -> Iterator[Bar]:
    """False alarms over cohorts of features of one kind; slides that are drawn and changed, by the
    features of an encoder with seeded weights, against slides that are not; time; size."""
    alarms = []
    for kind in range(20):
        random = np.random.default_rng((21, kind))
        bags = list(gaussian_slides(random, 120, kind))
        description = describe_domain(labelled(len(bags)), MemoryBags(bags))
        held_out = gaussian_slides(random, 200, kind)
        alarms.append(np.mean([description.judge(bag, 0.05).outside for bag in held_out]))
    mean = float(np.mean(alarms))
    error = 1.96 * float(np.std(alarms)) / len(alarms) ** 0.5
    yield Bar(
        "false alarms on held-out slides, 20 cohorts of 120, 200 slides each",
        f"{mean:.2%} ({mean - error:.2%} to {mean + error:.2%})",
        "4 to 6 %",
        0.04 <= mean <= 0.06,
    )
    encoder, random = SeededEncoder(), np.random.default_rng(22)
    bags = [encoder.bag(tiles) for tiles in drawn_slides(random, 80)]
    description = describe_domain(labelled(len(bags)), MemoryBags(bags))
    unchanged = [encoder.bag(tiles) for tiles in drawn_slides(random, 60)]
    clean = [description.score(bag.features) for bag in unchanged]
    peer = wsidrift_on(bags)
    if peer is not None:
        flagged = sum(peer(bag)[1] for bag in unchanged)
        yield Bar(
            "wsidrift, tiles of a slide as a batch: false alarms on unchanged slides",
            with_interval(flagged, len(unchanged)),
            "a peer",
            held=True,
        )
    shifts = {
        "other stain": (other_stain, 0.5),
        "other scale (1 um/px for 0.5)": (None, 1.0),
        "JPEG of quality 5 to 15": (heavy_jpeg, 0.5),
        "IHC-like colours": (like_ihc, 0.5),
    }
    for name, (change, mpp) in shifts.items():
        slides = [encoder.bag(tiles) for tiles in drawn_slides(random, 30, change, mpp)]
        made = [description.score(bag.features) for bag in slides]
        area, low, high = _auroc(made, clean)
        found = float(np.mean([_is_outside(description, score) for score in made]))
        yield Bar(
            f"domain: {name} (30 slides, {found:.0%} outside)",
            f"AUROC {area:.3f} ({low:.3f} to {high:.3f})",
            "at least 0.95",
            area >= 0.95,
        )
        if peer is not None:
            theirs = [peer(bag) for bag in slides]
            area, low, high = _auroc(
                [score for score, _ in theirs], [peer(bag)[0] for bag in unchanged]
            )
            yield Bar(
                f"wsidrift: {name} ({np.mean([flag for _, flag in theirs]):.0%} flagged)",
                f"AUROC {area:.3f} ({low:.3f} to {high:.3f})",
                "a peer",
                held=True,
            )
    wide = np.random.default_rng(23)
    many = [bag_of(wide.standard_normal((64, 1536), np.float32)) for _ in range(60)]
    description = describe_domain(labelled(len(many)), MemoryBags(many))
    slide = bag_of(wide.standard_normal((20_000, 1536), np.float32))
    costs = []
    for _ in range(3):
        began = time.perf_counter()
        description.judge(slide, 0.05)
        costs.append(time.perf_counter() - began)
    yield Bar(
        "domain: a slide of 20,000 tiles with 1,536 features",
        f"{min(costs):.3f} s",
        "under 0.1 s",
        min(costs) < 0.1,
    )
    size = sum(array.nbytes for array in description.arrays().values())
    yield Bar("domain: its description", f"{size / 1e6:.2f} MB", "under 2 MB", size < 2e6)


def _is_outside(description: DomainDescription, score: float) -> bool:
    as_far = int((description.scores >= score).sum())
    return (as_far + 1) / (len(description.scores) + 1) <= 0.05


PARTS: dict[str, Callable[[], Iterator[Bar]]] = {
    "zones": zones,
    "quality": quality,
    "domain": domain,
    "site": site,
    "monitor": monitoring,
}


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
