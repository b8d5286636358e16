"""From a bag to predictions.

``panel`` runs all heads of a bundle, ``run`` one of them, ``prediction`` is what a head says.
``incremental_pooling`` takes tiles batch by batch, ``interim`` answers while they come, with the
intervals of ``jackknife``; ``budget`` ends a slide early. Knows nothing of files or scanners.
Imports tiles, features, engines, bundle and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.heads.interim import InterimPredictor
    from pathgene_rt.heads.panel import HeadPanel
    from pathgene_rt.heads.prediction import Partial, Prediction

__all__ = ["HeadPanel", "InterimPredictor", "Partial", "Prediction"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "HeadPanel": "panel",
        "InterimPredictor": "interim",
        "Partial": "prediction",
        "Prediction": "prediction",
    },
)
