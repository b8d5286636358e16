"""ABMIL: attention pooling and a linear classifier (M. Ilse et al., ICML 2018).

The defaults are the gated form on projected features. PathGene's and IBMIL's ABMIL is
``projection=0, hidden=in_dim, gated=False, dropout=0``; the MHIM-MIL repository's two are
``hidden=128, gated=False`` and ``hidden=384, gated=True``.
"""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import AttentionHead, AttentionScores
from pathgene_rt.training.heads.dropout import BagDropout


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ABMILOptions:
    """``projection`` is the width of the embedded features, 0 pools the features themselves;
    ``hidden`` the width inside the attention. ``dropout`` acts on both in training."""

    projection: int = Field(default=512, ge=0, le=8192)
    hidden: int = Field(default=256, ge=1, le=8192)
    gated: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)


class ABMIL(AttentionHead):
    """One attention over the tiles; the bag vector is classified linearly."""

    architecture = "abmil"
    Options = ABMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: ABMILOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        width = options.projection or in_dim
        self.projection = nn.Linear(in_dim, width) if options.projection else None
        self.dropout = BagDropout(options.dropout)
        self.attention = AttentionScores(
            width, options.hidden, gated=options.gated, dropout=options.dropout
        )
        self.classifier = nn.Linear(width, n_classes)

    @override
    def instances(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = features
        if self.projection is not None:
            embeddings = self.dropout(self.projection(features).relu())
        return self.attention(embeddings), embeddings

    @override
    def classify(self, bags: Tensor) -> Tensor:
        logits: Tensor = self.classifier(bags)[..., 0, :]
        return logits
