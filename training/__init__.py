"""Heads and encoders as torch modules, and how heads are trained and judged.

``train`` is the way through, ``config`` its TOML, ``loop`` the training loop, ``checkpoint`` the
files of weights. ``heads/`` and ``encoders/`` are the architectures, ``data/`` cohorts,
``protocol/`` folds and figures, ``synthetic/`` generated slides. Imports the runtime; needs the
extra `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.training.checkpoint import HeadCheckpoint, load_head, save_head
    from pathgene_rt.training.config import TrainConfig

__all__ = ["HeadCheckpoint", "TrainConfig", "load_head", "save_head"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "HeadCheckpoint": "checkpoint",
        "TrainConfig": "config",
        "load_head": "checkpoint",
        "save_head": "checkpoint",
    },
)
