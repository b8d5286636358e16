"""wsidrift (PyPI, 0.1.1) on the same features, where it is installed.

Its second tier, the distance of embeddings, takes a batch: here the tiles of one slide, against all
tiles of the slides of training, at the same rate of false alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pathgene_rt.features.bag import FeatureBag

ALARM = 0.05

Score = Callable[[FeatureBag], tuple[float, bool]]
"""How far a slide is off, and whether it is flagged."""


def wsidrift_on(bags: Sequence[FeatureBag]) -> Score | None:
    """Fitted to the tiles of ``bags``; None where the package is not installed."""
    try:
        from wsidrift.monitor.embedding import Tier2Monitor
    except ImportError:
        return None
    monitor = Tier2Monitor(alpha=ALARM).fit(np.concatenate([bag.features for bag in bags]))

    def score(bag: FeatureBag) -> tuple[float, bool]:
        found = monitor.score(bag.features)
        return float(found.mahalanobis_mean), bool(found.flagged)

    return score
