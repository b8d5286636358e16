"""CLAM with an attention branch for each class. Paper and options: ``clam.py``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.training.heads.clam import EMBEDDING, Clam, ClamOptions


class ClamMB(Clam):
    """Attention [n, classes]; each class is scored from its own bag vector by its own classifier,
    and its instances are those of its own branch."""

    architecture = "clam_mb"

    def __init__(self, in_dim: int, n_classes: int, options: ClamOptions) -> None:
        super().__init__(in_dim, n_classes, options, branches=n_classes)
        self.classifiers = nn.ModuleList(nn.Linear(EMBEDDING, 1) for _ in range(n_classes))

    @override
    def classify(self, bags: Tensor) -> Tensor:
        pairs = zip(self.classifiers, bags.unbind(dim=-2), strict=True)
        return torch.cat([classifier(bag) for classifier, bag in pairs], dim=-1)
