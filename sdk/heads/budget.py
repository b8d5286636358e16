"""A slide that may end before its last tile: in what order, when, and what is then said of it."""

from __future__ import annotations

from collections.abc import Sequence

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import BoolArray, Int64Array, TileGrid
from pathgene_rt.heads.panel import HeadPanel
from pathgene_rt.heads.prediction import Partial, Prediction
from pathgene_rt.options import Budget
from pathgene_rt.tiles.balanced_order import balanced_order


class BudgetedRun:
    """One slide under ``budget``. ``rows`` int64 [n] are the tiles of ``grid`` to encode, in order.

    ``began`` (``time.monotonic``) is when the budget's seconds started to count.
    """

    def __init__(self, heads: HeadPanel, grid: TileGrid, budget: Budget, began: float) -> None:
        self._coords = grid.coords
        self._budget = budget
        self.rows = balanced_order(self._coords).rows[: budget.tiles]
        self._so_far: tuple[FeatureBag, BoolArray] | None = None
        self._interim = heads.interim(
            total=len(grid), budget=budget, began=began, bag=self._bag_so_far
        )

    def observe(self, bag: FeatureBag, done: BoolArray, came: Int64Array) -> bool:
        """A :data:`~pathgene_rt.extraction.encoding_run.BatchObserver`.

        Raises BagError, EngineError.
        """
        self._so_far = bag, done
        if len(came):
            self._interim.add(came, bag.features[came], self._coords[came])
        return not self._interim.should_stop()

    def partial(self, bag: FeatureBag) -> Partial | None:
        """What ``bag``, the tiles that were encoded, is part of; None if it is the whole slide."""
        total = len(self._coords)
        if len(bag) == total:
            return None
        why = self._interim.why or "the budget is used up"
        return Partial(tiles_done=len(bag), tiles_total=total, why=why)

    def with_intervals(
        self, predictions: Sequence[Prediction], bag: FeatureBag
    ) -> tuple[Prediction, ...]:
        """``predictions`` for ``bag`` with their intervals; as they are where no tile could be
        used. Raises EngineError."""
        if not self._interim.done:
            return tuple(predictions)
        return self._interim.with_intervals(predictions, bag)

    def _bag_so_far(self) -> FeatureBag:
        assert self._so_far is not None  # asked for after a batch only
        bag, done = self._so_far
        return bag.take(done)
