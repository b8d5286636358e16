"""RRT-MIL (W. Tang et al., "Feature Re-Embedding: Towards Foundation Model-Level Performance in
Computational Pathology", CVPR 2024).

Trained by the loss of its logits, as in the paper; its optimizer and schedule are the loop's.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import pool
from pathgene_rt.training.heads.base import Head, HeadOutput
from pathgene_rt.training.heads.bias_free_attention import Activation, BiasFreeScores
from pathgene_rt.training.heads.dropout import BagDropout
from pathgene_rt.training.heads.rrt_attention import (
    CrossRegionAttention,
    ReembeddingLayer,
    RegionAttention,
)

_WIDTH = 512


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RRTOptions:
    """``n_layers`` counts the layer across regions, which comes last; those before it attend by
    ``n_heads`` within ``region_num`` x ``region_num`` regions of the tile grid, with a position
    code of kernel ``epeg_k`` (odd; 0 for none). Across regions, ``crmsa_k`` tokens a region attend
    by ``crmsa_heads``; ``crmsa_mlp`` finds them by a layer more. ``ffn`` puts a feed-forward block
    behind each layer; ``all_shortcut`` adds the embeddings to what all layers return.

    ``da_act`` and ``da_gated`` are of the attention that pools. ``dropout`` acts on embeddings,
    ``trans_dropout`` in the layers. The authors set epeg_k, crmsa_k, crmsa_heads, crmsa_mlp and
    all_shortcut for each data set: 15, 1, 8, False and True for Camelyon16 on ResNet-50 features.
    """

    region_num: int = Field(default=8, ge=1, le=64)
    n_layers: int = Field(default=2, ge=1, le=16)
    n_heads: int = Field(default=8, ge=1, le=64)
    epeg_k: int = Field(default=15, ge=0, le=255)
    crmsa_k: int = Field(default=3, ge=1, le=64)
    crmsa_heads: int = Field(default=8, ge=1, le=64)
    crmsa_mlp: bool = False
    ffn: bool = False
    all_shortcut: bool = False
    da_act: Activation = "relu"
    da_gated: bool = False
    dropout: float = Field(default=0.25, ge=0, lt=1)
    trans_dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.epeg_k and self.epeg_k % 2 == 0:
            raise ValueError("a kernel has an odd length, or 0 for none")
        if _WIDTH % self.n_heads or _WIDTH % self.crmsa_heads:
            raise ValueError(f"the heads share {_WIDTH} channels evenly")
        return self


class RRT(Head):
    """Tiles are embedded, re-embedded by attention within and across regions of the grid on which
    they lie in their order, and pooled by attention.

    ``attention`` [n, 1] is that of the pooling. In training as at inference the order of the tiles
    is what positions are: row by row, as features are stored.
    """

    architecture = "rrt"
    Options = RRTOptions

    def __init__(self, in_dim: int, n_classes: int, options: RRTOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.embedding = nn.Linear(in_dim, _WIDTH)
        self.dropout = BagDropout(options.dropout)
        within = [
            RegionAttention(
                _WIDTH,
                options.n_heads,
                regions=options.region_num,
                epeg_k=options.epeg_k,
                dropout=options.trans_dropout,
            )
            for _ in range(options.n_layers - 1)
        ]
        across = CrossRegionAttention(
            _WIDTH,
            options.crmsa_heads,
            slots=options.crmsa_k,
            hidden=options.crmsa_mlp,
            dropout=options.trans_dropout,
        )
        self.layers = nn.ModuleList(
            ReembeddingLayer(attention, _WIDTH, ffn=options.ffn, dropout=options.trans_dropout)
            for attention in (*within, across)
        )
        self.shortcut = options.all_shortcut
        self.norm = nn.LayerNorm(_WIDTH)
        self.attention = BiasFreeScores(_WIDTH, activation=options.da_act, gated=options.da_gated)
        self.classifier = nn.Linear(_WIDTH, n_classes)
        self.apply(_initialise)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        tiles = self.reembed(features)
        attention, bags = pool(self.attention(tiles), tiles)
        return HeadOutput(self.classifier(bags)[0], attention)

    def reembed(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> embeddings float32 [n, 512] that know their surroundings."""
        embedded: Tensor = self.dropout(self.embedding(features).relu())
        tiles = embedded
        for layer in self.layers:
            tiles = layer(tiles)
        if self.shortcut:
            tiles = tiles + embedded
        normalised: Tensor = self.norm(tiles)
        return normalised


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
