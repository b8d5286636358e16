"""Predictions before the last tile: intervals that hold, and when a slide may end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.engines.engine import Engine
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.heads.incremental_pooling import PoolingEngine
from pathgene_rt.heads.interim import GROUPS, WHOLE_BAG_GROUPS, InterimPredictor, block_groups
from pathgene_rt.heads.prediction import Prediction, make_prediction
from pathgene_rt.heads.run import HeadResult, run_heads
from pathgene_rt.options import Budget
from pathgene_rt.tiles.balanced_order import BLOCK_TILES, balanced_order
from pathgene_rt.training.synthetic.patches import patchy_bags
from tests.support.incremental_heads import graphs_of, seeded_head

pytestmark = pytest.mark.usefixtures("graphs_exported_once")

WIDTH = 16
BATCH = 64


class Panel:
    """An ABMIL that pooled and a DSMIL that does not, sharp enough to differ between bags."""

    def __init__(self) -> None:
        pooled = graphs_of(seeded_head("abmil", WIDTH, 2, 2.0, projection=16, hidden=8), "pooled")
        whole = graphs_of(seeded_head("dsmil", WIDTH, 2, 1.5), "whole")
        self.heads = [pooled.spec, whole.spec]
        self.pooling: dict[str, PoolingEngine] = {"pooled": pooled.pooling_engine("onnxruntime")}
        self._engines: dict[str, Engine] = {
            "pooled": pooled.engine("onnxruntime"),
            "whole": whole.engine("onnxruntime"),
        }
        self.runs = 0

    def run(self, heads: Sequence[HeadSpec], bag: FeatureBag) -> Mapping[str, HeadResult]:
        self.runs += 1
        return run_heads([(head, self._engines[head.name]) for head in heads], bag)

    def predictions(self, bag: FeatureBag) -> tuple[Prediction, ...]:
        results = self.run(self.heads, bag)
        return tuple(make_prediction(head, results[head.name].logits) for head in self.heads)


@cache
def panel() -> Panel:
    return Panel()


@cache
def slides(count: int) -> list[FeatureBag]:
    return [one.bag for one in patchy_bags(count, WIDTH, sides=(40, 70), seed=1)]


def taken(bag: FeatureBag, rows: np.ndarray) -> FeatureBag:
    return replace(bag, features=bag.features[rows], xy=bag.xy[rows])


def fed(bag: FeatureBag, count: int, **options: object) -> tuple[InterimPredictor, np.ndarray]:
    """The first ``count`` tiles in even order, in batches, until it should stop."""
    order = balanced_order(bag.coords).rows[:count]
    heads = panel()
    settings = {"total": len(bag), **options}
    predictor = InterimPredictor(heads.heads, heads.pooling, heads.run, **settings)  # type: ignore[arg-type]
    for start in range(0, count, BATCH):
        rows = order[start : start + BATCH]
        predictor.add(rows, bag.features[rows], bag.coords[rows])
        if predictor.should_stop():
            return predictor, order[: start + len(rows)]
    return predictor, order


def test_interim_predictions_are_those_of_the_tiles_so_far() -> None:
    bag = slides(2)[0]
    predictor, rows = fed(bag, 300)
    (interim,) = predictor.predictions()
    expected = panel().predictions(taken(bag, rows))[0]
    assert predictor.done == 300
    assert interim.head == "pooled"
    np.testing.assert_allclose(interim.logits, expected.logits, rtol=0, atol=1e-5)
    assert interim.interval is not None
    for (low, high), chance in zip(interim.interval, interim.probabilities, strict=True):
        assert 0 < low < chance < high < 1


@pytest.mark.parametrize(("tiles", "runs"), [(190, 1), (300, 1 + WHOLE_BAG_GROUPS)])
def test_with_their_tiles_all_heads_answer(tiles: int, runs: int) -> None:
    bag, heads = slides(2)[0], panel()
    part = taken(bag, balanced_order(bag.coords).rows[:tiles])
    predictor = InterimPredictor(
        heads.heads, heads.pooling, heads.run, total=None, bag=lambda: part
    )
    predictor.add(np.arange(tiles), part.features, part.coords)
    before = heads.runs
    found = predictor.predictions()
    assert heads.runs - before == runs
    expected = predictor.with_intervals(heads.predictions(part), part)
    for one, other in zip(found, expected, strict=True):
        assert (one.head, one.interval) == (other.head, other.interval)
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-5)


def test_before_the_first_tile_nothing_is_predicted() -> None:
    heads = panel()
    assert InterimPredictor(heads.heads, heads.pooling, heads.run, total=100).predictions() == ()


def test_of_a_few_tiles_nothing_is_claimed() -> None:
    predictor, _ = fed(slides(2)[0], 190)
    (interim,) = predictor.predictions()
    assert interim.interval == ((0.0, 1.0), (0.0, 1.0))


def test_all_heads_get_intervals_and_keep_their_predictions() -> None:
    bag = slides(2)[1]
    predictor, rows = fed(bag, 400)
    part = taken(bag, rows)
    given = panel().predictions(part)
    before = panel().runs
    found = predictor.with_intervals(given, part)
    assert panel().runs - before == 1 + WHOLE_BAG_GROUPS
    assert [replace(one, interval=None) for one in found] == list(given)
    for one in found:
        assert one.interval is not None
        (low, high) = one.interval[1]
        assert 0 <= low < one.probabilities[1] < high <= 1


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_intervals_cover_the_prediction_of_the_whole_slide(share: float) -> None:
    covered, widths = {"pooled": 0, "whole": 0}, []
    bags = slides(30)
    for bag in bags:
        predictor, rows = fed(bag, int(share * len(bag)))
        part = taken(bag, rows)
        for one, full in zip(
            predictor.with_intervals(panel().predictions(part), part),
            panel().predictions(bag),
            strict=True,
        ):
            assert one.interval is not None
            low, high = one.interval[1]
            covered[one.head] += low <= full.probabilities[1] <= high
            widths.append(high - low)
    assert min(covered.values()) >= 0.9 * len(bags), covered
    assert np.mean(widths) < 0.8  # that everything is covered would be no merit


def test_more_tiles_narrow_the_interval_and_all_tiles_close_it() -> None:
    bag = slides(4)[2]
    widths = []
    for share in (0.1, 0.4, 1.0):
        (interim,) = fed(bag, int(share * len(bag)))[0].predictions()
        assert interim.interval is not None
        low, high = interim.interval[1]
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] == pytest.approx(0, abs=1e-12)


def test_where_the_end_is_not_known_intervals_are_wider() -> None:
    bag = slides(4)[2]
    known, unknown = (
        fed(bag, len(bag) // 2, total=total)[0].predictions()[0].interval
        for total in (len(bag), None)
    )
    assert known is not None and unknown is not None
    assert unknown[1][0] < known[1][0] < known[1][1] < unknown[1][1]


def test_a_budget_of_tiles_and_of_time() -> None:
    bag = slides(2)[0]
    predictor, rows = fed(bag, len(bag), budget=Budget(tiles=200))
    assert len(rows) == 256  # what was on its way in batches of 64
    assert predictor.why == "the budget of 200 tiles is used up"
    predictor, rows = fed(bag, len(bag), budget=Budget(seconds=5), began=0.0)
    assert len(rows) == BATCH
    assert predictor.why == "the budget of 5 s is used up"
    predictor, rows = fed(bag, len(bag))
    assert len(rows) == len(bag) and predictor.why is None


def test_stops_when_every_interval_is_narrow() -> None:
    bag = slides(4)[3]
    width = 0.2
    predictor, rows = fed(bag, len(bag), budget=Budget(width=width))
    assert predictor.why == "no interval is wider than 0.2"
    assert BATCH <= len(rows) < len(bag)
    (interim,) = predictor.predictions()
    assert interim.interval is not None
    assert max(high - low for low, high in interim.interval) <= width


def test_stability_waits_for_heads_that_are_not_pooled_incrementally_if_it_may_see_the_bag() -> (
    None
):
    bag = slides(4)[3]
    order = balanced_order(bag.coords).rows
    heads = panel()
    seen: list[np.ndarray] = []
    predictor = InterimPredictor(
        heads.heads,
        heads.pooling,
        heads.run,
        total=len(bag),
        budget=Budget(width=0.2),
        bag=lambda: taken(bag, np.concatenate(seen)),
    )
    while not predictor.should_stop() and predictor.done < len(bag):
        rows = order[predictor.done : predictor.done + BATCH]
        seen.append(rows)
        predictor.add(rows, bag.features[rows], bag.coords[rows])
    part = taken(bag, np.concatenate(seen))
    for one in predictor.with_intervals(heads.predictions(part), part):
        assert one.interval is not None
        assert max(high - low for low, high in one.interval) <= 0.2


def test_groups_are_of_whole_blocks_and_about_even() -> None:
    place = np.arange(128 * 128)
    coords = np.stack([place % 128, place // 128], axis=1)
    group = block_groups(coords, GROUPS)
    blocks = (coords // BLOCK_TILES) @ [1, 1000]
    assert all(len(np.unique(group[blocks == one])) == 1 for one in np.unique(blocks)[::50])
    counts = np.bincount(group, minlength=GROUPS)
    expected = len(place) / GROUPS
    # Of 4096 blocks a group gets 128 by chance, with a deviation of 11.
    assert (np.abs(counts - expected) < 5 * 11 * BLOCK_TILES**2).all()
    first_half = np.bincount(group[: len(place) // 2], minlength=GROUPS)
    assert (first_half > 0).all()
