"""Predictions at any moment of a slide, how far they may be from the final ones, and when to stop.

Tiles are grouped by the blocks of :mod:`pathgene_rt.tiles.balanced_order`, whatever order they come
in. Leaving out each group in turn says how much a prediction depends on which blocks were seen
(:mod:`pathgene_rt.heads.jackknife`). That is the distance to the whole slide's prediction as long
as what was seen is spread over the tissue as the rest is: true of the even order, not of a raster
scan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array
from pathgene_rt.heads.incremental_pooling import IncrementalPooling, PoolingEngine
from pathgene_rt.heads.jackknife import Float64Array, probability_interval
from pathgene_rt.heads.prediction import Prediction, make_prediction
from pathgene_rt.heads.run import HeadResult
from pathgene_rt.options import Budget
from pathgene_rt.tiles.balanced_order import block_cells

GROUPS = 32
"""Of blocks, for heads that are pooled incrementally: leaving one out costs next to nothing."""

WHOLE_BAG_GROUPS = 12
"""For heads that are not: each costs a run of the head on eleven twelfths of the tiles."""

LEAST_TILES = 200
"""With fewer nothing is claimed: what a slide holds elsewhere was then found to be missed too often
(``benchmarks/interim.py``)."""

_CHECK_TILES = LEAST_TILES
_CHECK_GROWTH = 1.05
"""Stability is looked at after so many tiles, then each time they have grown by a twentieth."""

_WHOLE_BAG_GROWTH = 1.25
"""Heads that cannot be pooled incrementally are looked at each time the tiles have grown by a
quarter, if the others are stable: all looks together then cost five times the last."""

RunHeads = Callable[[Sequence[HeadSpec], FeatureBag], Mapping[str, HeadResult]]
"""Runs some heads of the bundle on a bag: results by name."""


class InterimPredictor:
    """The heads of a bundle over one slide, while its tiles are encoded.

    ``pooling`` holds by name the heads that are pooled incrementally; the others are run by
    ``run_heads`` on a bag of the tiles so far when they are asked for. ``total`` is the number of
    tiles the slide will have, None where it is not known: nothing is then taken off the intervals
    for tiles that are done. ``began`` is when the time of ``budget`` started to count
    (``time.monotonic``; default now). ``bag`` gives the tiles added so far, in any order, for heads
    that cannot be pooled incrementally; without it those do not count towards stability and have no
    interim predictions.

    :meth:`add` is for one thread, everything else for any.
    """

    def __init__(
        self,
        heads: Sequence[HeadSpec],
        pooling: Mapping[str, PoolingEngine],
        run_heads: RunHeads,
        *,
        total: int | None,
        budget: Budget | None = None,
        began: float | None = None,
        bag: Callable[[], FeatureBag] | None = None,
    ) -> None:
        self._heads = heads
        self._poolings = {
            name: IncrementalPooling(engine, GROUPS) for name, engine in pooling.items()
        }
        self._whole = [head for head in heads if head.name not in pooling]
        self._run_heads = run_heads
        self._bag = bag
        self._total = total
        self._budget = budget or Budget()
        self._began = time.monotonic() if began is None else began
        self._sizes = np.zeros(GROUPS)
        self._why: str | None = None
        self._check_at = self._check_whole_at = _CHECK_TILES
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Tiles added so far."""
        with self._lock:
            return self._done

    @property
    def why(self) -> str | None:
        """Why :meth:`should_stop` said so, for reports; None as long as it did not."""
        with self._lock:
            return self._why

    def add(self, rows: Int64Array, features: Float32Array, coords: Int64Array) -> None:
        """Add encoded tiles: ``rows`` int64 [n] of the bag, each once, ``features`` float32
        [n, D], ``coords`` int64 [n, 2] their (column, row). The arrays may be reused afterwards.
        Raises BagError, EngineError.
        """
        group = block_groups(coords, GROUPS)
        with self._lock:
            for pooled in self._poolings.values():
                pooled.add(rows, features, group)
            self._sizes += np.bincount(group, minlength=GROUPS)

    def should_stop(self) -> bool:
        """Whether the budget is used up or the predictions are stable; to be asked after each
        :meth:`add`. Once true it stays true. Stability is looked at now and then only. Raises
        EngineError, BagError.
        """
        with self._lock:
            if self._why is None:
                self._why = self._reason()
            return self._why is not None

    def predictions(self) -> tuple[Prediction, ...]:
        """What the heads say of the tiles so far, with intervals; empty before the first tile.

        Heads that are pooled incrementally take milliseconds, whatever the number of tiles. Each of
        the others is run on all tiles and, from LEAST_TILES tiles on, without each of
        WHOLE_BAG_GROUPS groups. Raises BagError, EngineError.
        """
        with self._lock:
            if not self._done:
                return ()
            found = {one.head: one for one in self._pooled_incrementally()}
        if self._whole and self._bag is not None:
            found |= {one.head: one for one in self._run_whole(self._bag())}
        return tuple(found[head.name] for head in self._heads if head.name in found)

    def with_intervals(
        self, predictions: Sequence[Prediction], bag: FeatureBag
    ) -> tuple[Prediction, ...]:
        """``predictions`` of all heads for ``bag``, the tiles that were added, with intervals.

        Heads that cannot be pooled incrementally are run on ``bag`` without each of
        WHOLE_BAG_GROUPS groups of tiles, while tiles can still be added. Raises EngineError.
        """
        with self._lock:
            pooled = self._pooled_incrementally()
        intervals = {one.head: one.interval for one in (*pooled, *self._run_whole(bag))}
        return tuple(replace(one, interval=intervals[one.head]) for one in predictions)

    @property
    def _done(self) -> int:
        return int(self._sizes.sum())

    def _reason(self) -> str | None:
        budget, done = self._budget, self._done
        if budget.tiles is not None and done >= budget.tiles:
            return f"the budget of {budget.tiles:,} tiles is used up"
        if budget.seconds is not None and time.monotonic() - self._began >= budget.seconds:
            return f"the budget of {budget.seconds:g} s is used up"
        if budget.width is not None and self._stable(budget.width):
            return f"no interval is wider than {budget.width:g}"
        return None

    def _stable(self, width: float) -> bool:
        done = self._done
        if done < self._check_at:
            return False
        self._check_at = int(done * _CHECK_GROWTH) + 1
        if not all(_widest(one) <= width for one in self._pooled_incrementally()):
            return False
        if not self._whole or self._bag is None:
            return bool(self._poolings)
        if done < self._check_whole_at:
            return False
        self._check_whole_at = int(done * _WHOLE_BAG_GROWTH) + 1
        return all(_widest(one) <= width for one in self._run_whole(self._bag()))

    def _pooled_incrementally(self) -> list[Prediction]:
        present = np.flatnonzero(self._sizes)
        sizes = self._sizes[present]
        found = []
        for head in self._heads:
            pooling = self._poolings.get(head.name)
            if pooling is None:
                continue
            logits = pooling.logits()
            without = pooling.logits_without_each(present) if len(present) > 1 else logits[None]
            found.append(self._judged(head, logits, without, sizes))
        return found

    def _run_whole(self, bag: FeatureBag) -> list[Prediction]:
        if not self._whole:
            return []
        group = block_groups(bag.coords, WHOLE_BAG_GROUPS)
        present, sizes = np.unique(group, return_counts=True)
        results = self._run_heads(self._whole, bag)
        without = [results]
        if len(present) > 1 and len(bag) >= LEAST_TILES:
            parts = (_part(bag, group != one) for one in present)
            without = [self._run_heads(self._whole, part) for part in parts]
        return [
            self._judged(
                head,
                results[head.name].logits,
                np.array([part[head.name].logits for part in without]),
                sizes.astype(np.float64),
            )
            for head in self._whole
        ]

    def _judged(
        self, head: HeadSpec, logits: Float32Array, without: Float32Array, sizes: Float64Array
    ) -> Prediction:
        prediction = make_prediction(head, logits)
        calibration = head.calibration
        classes = len(prediction.classes)
        if sizes.sum() < LEAST_TILES:
            return replace(prediction, interval=((0.0, 1.0),) * classes)
        interval = probability_interval(
            calibration.log_odds(logits),
            calibration.log_odds(without),
            sizes,
            share=float(sizes.sum()) / self._total if self._total else 0.0,
            claims=1 if calibration.activation == "softmax" and classes == 2 else classes,
        )
        return replace(prediction, interval=interval)


def block_groups(coords: Int64Array, groups: int) -> Int64Array:
    """The group 0..groups-1 of each tile at ``coords`` int64 [n, 2] (column, row), int64 [n].

    All tiles of a block are in one group; blocks are dealt to groups as if by chance.
    """
    column, row = block_cells(coords).astype(np.uint64).T
    # The finaliser of splitmix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014).
    mixed = (column << np.uint64(32)) ^ row
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    dealt: Int64Array = ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(groups)).astype(np.int64)
    return dealt


def _widest(prediction: Prediction) -> float:
    assert prediction.interval is not None
    return max(high - low for low, high in prediction.interval)


def _part(bag: FeatureBag, chosen: BoolArray) -> FeatureBag:
    return bag.take(chosen)
