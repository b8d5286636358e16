"""CLAM with a single attention branch for all classes. Paper and options: ``clam.py``."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.training.heads.clam import EMBEDDING, Clam, ClamOptions


class ClamSB(Clam):
    """Attention [n, 1]; one linear classifier of the bag vector."""

    architecture = "clam_sb"

    def __init__(self, in_dim: int, n_classes: int, options: ClamOptions) -> None:
        super().__init__(in_dim, n_classes, options, branches=1)
        self.classifier = nn.Linear(EMBEDDING, n_classes)

    @override
    def classify(self, bags: Tensor) -> Tensor:
        logits: Tensor = self.classifier(bags)[..., 0, :]
        return logits
