"""What a head's answer for a slide rests on: tiles that spoke for it and against it, and whether
the attention map explains it at all.

Attention says where a head looked, not what it saw. So the tiles it attended to most are given to
the head one at a time: those of which it says the same as of the slide spoke for the call, the
others against it. And the slide is predicted again without the most attended tenth of its tiles,
beside as many tiles taken at random ("comprehensiveness": DeYoung et al., ERASER, ACL 2020): where
the two differ little, the map does not explain the call. That is judged in log-odds, since a
probability near 0 or 1 hardly moves whatever is removed. No tile is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array, Int64Array
from pathgene_rt.heads.prediction import Prediction, make_prediction
from pathgene_rt.heads.run import HeadResult
from pathgene_rt.report.attention import shown_attention, shown_class

RunHeads = Callable[[Sequence[HeadSpec], FeatureBag], Mapping[str, HeadResult]]
"""Runs heads of the bundle on a bag: results by name."""

TRIED_TILES = 32
"""So many of the most attended tiles are judged one at a time."""

SHOWN_TILES = 6
LEAST_TILES = 20
"""Of fewer tiles a tenth says nothing."""

REMOVED_SHARE, DRAWS = 0.1, 3
EXPLAINS_FROM = 0.1
"""A map explains something if the log-odds fall so much lower without its top than without tiles at
random: 2.5 points of a hundred from a probability of 0.5."""


@dataclass(frozen=True, kw_only=True)
class TileEvidence:
    """A tile: its ``row`` in the bag, its level-0 corner, its percentile rank of attention, and the
    probability of the shown class of that tile alone."""

    row: int
    xy: tuple[int, int]
    alone: float


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a head says of the shown class for some tiles."""

    probability: float
    log_odds: float


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """What the head says of the bag (``whole``), without the ``removed`` tiles that were attended
    to most (``without_top``), and without as many at random (``without_random``, mean of DRAWS
    draws)."""

    removed: int
    whole: Support
    without_top: Support
    without_random: Support

    @property
    def explains(self) -> bool:
        """Whether the most attended tiles speak for the answer more than others do."""
        return self.without_random.log_odds - self.without_top.log_odds >= EXPLAINS_FROM


@dataclass(frozen=True, kw_only=True)
class HeadEvidence:
    """Of one head: the class it is about (an index of its classes), tiles ``for`` and ``against``
    it, most attended first, of the ``tried`` ones; ``faithfulness`` None for too few tiles."""

    shown_class: int
    tried: int
    tiles_for: tuple[TileEvidence, ...]
    tiles_against: tuple[TileEvidence, ...]
    faithfulness: Faithfulness | None

    @property
    def rows(self) -> Int64Array:
        """The bag's rows of all tiles, int64 [m]: those for it, then those against it."""
        tiles = (*self.tiles_for, *self.tiles_against)
        return np.array([tile.row for tile in tiles], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``report.json``."""
        faithful = self.faithfulness
        return {
            "class": self.shown_class,
            "tiles_tried": self.tried,
            "tiles_for": [_tile_dict(tile) for tile in self.tiles_for],
            "tiles_against": [_tile_dict(tile) for tile in self.tiles_against],
            "faithfulness": faithful
            and {
                "tiles_removed": faithful.removed,
                "whole": asdict(faithful.whole),
                "without_top": asdict(faithful.without_top),
                "without_random": asdict(faithful.without_random),
                "explains": faithful.explains,
            },
        }


def gather_evidence(
    heads: Sequence[HeadSpec],
    run: RunHeads,
    bag: FeatureBag,
    predictions: Sequence[Prediction],
    attention: Mapping[str, Float32Array],
) -> dict[str, HeadEvidence]:
    """The evidence of each of ``heads`` that gave ``attention`` float32 [N, k], by name.

    Each such head runs on TRIED_TILES single tiles and 1 + DRAWS times on nine tenths of the bag.
    Raises EngineError.
    """
    found = {}
    by_name = {head.name: head for head in heads}
    for prediction in predictions:
        if prediction.head in attention:
            head = by_name[prediction.head]
            values = shown_attention(attention[prediction.head], prediction)
            found[head.name] = _of_head(head, run, bag, prediction, values)
    return found


def _of_head(
    head: HeadSpec, run: RunHeads, bag: FeatureBag, prediction: Prediction, values: Float32Array
) -> HeadEvidence:
    about = shown_class(prediction)

    def predicted(rows: Int64Array) -> Prediction:
        part = bag.take(rows)
        return make_prediction(head, run((head,), part)[head.name].logits)

    def support(rows: Int64Array) -> Support:
        prediction = predicted(rows)
        odds = head.calibration.log_odds(prediction.logits or ())
        return Support(probability=prediction.probabilities[about], log_odds=float(odds[about]))

    order = np.argsort(-values, kind="stable").astype(np.int64)
    tiles_for: list[TileEvidence] = []
    tiles_against: list[TileEvidence] = []
    for row in order[:TRIED_TILES].tolist():
        alone = predicted(np.array([row], dtype=np.int64))
        x, y = bag.xy[row].tolist()
        tile = TileEvidence(row=row, xy=(x, y), alone=alone.probabilities[about])
        same = about in alone.called if prediction.called else not alone.called
        (tiles_for if same else tiles_against).append(tile)
    return HeadEvidence(
        shown_class=about,
        tried=min(TRIED_TILES, len(bag)),
        tiles_for=tuple(tiles_for[:SHOWN_TILES]),
        tiles_against=tuple(tiles_against[:SHOWN_TILES]),
        faithfulness=_faithfulness(order, support),
    )


def _faithfulness(
    order: Int64Array, support: Callable[[Int64Array], Support]
) -> Faithfulness | None:
    """Of tiles in the ``order`` int64 [N] of their attention, the highest first."""
    count = len(order)
    if count < LEAST_TILES:
        return None
    removed = round(REMOVED_SHARE * count)
    drawn = np.random.default_rng(0)
    others = [
        support(np.sort(drawn.permutation(count)[removed:]).astype(np.int64)) for _ in range(DRAWS)
    ]
    return Faithfulness(
        removed=removed,
        whole=support(np.arange(count, dtype=np.int64)),
        without_top=support(np.sort(order[removed:])),
        without_random=Support(
            probability=float(np.mean([other.probability for other in others])),
            log_odds=float(np.mean([other.log_odds for other in others])),
        ),
    )


def _tile_dict(tile: TileEvidence) -> dict[str, Any]:
    return {"xy": list(tile.xy), "probability_alone": tile.alone}
