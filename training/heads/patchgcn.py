"""Patch-GCN (R. Chen et al., "Whole Slide Images are 2D Point Clouds: Context-Aware Survival
Prediction using Patch-based Graph Convolutional Networks", MICCAI 2021), as a classifier.

Trained by the loss of its logits: the paper's survival loss is left out, PathGene trains this
classifier too (with ``bias=False``, the layout of the torch_geometric it ran on). A tile takes
messages from its ``neighbours``: the authors link each tile to its eight nearest, this runtime to
those around it on the grid.
"""

from __future__ import annotations

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import AttentionScores, pool
from pathgene_rt.training.heads.base import Head, HeadOutput
from pathgene_rt.training.heads.dropout import BagDropout
from pathgene_rt.training.heads.genconv import GENConv


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatchGCNOptions:
    """``width`` of a tile in the graph, number of graph ``convolutions``, and whether their layers
    have a ``bias``. The tile's vectors before and after each convolution are pooled together."""

    width: int = Field(default=128, ge=1, le=4096)
    convolutions: int = Field(default=3, ge=1, le=16)
    bias: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)


class PatchGCN(Head):
    """Graph convolutions over the tiles of a slide, then gated attention over what they gave."""

    architecture = "patchgcn"
    inputs = ("features", "neighbours")
    Options = PatchGCNOptions

    def __init__(self, in_dim: int, n_classes: int, options: PatchGCNOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        pooled = (options.convolutions + 1) * options.width
        self.dropout = BagDropout(options.dropout)
        self.embedding = nn.Linear(in_dim, options.width)
        self.first = GENConv(options.width, bias=options.bias)
        self.layers = nn.ModuleList(
            ResidualConv(options.width, bias=options.bias) for _ in range(options.convolutions - 1)
        )
        self.phi = nn.Linear(pooled, pooled)
        self.attention = AttentionScores(pooled, pooled, gated=True, dropout=options.dropout)
        self.rho = nn.Linear(pooled, pooled)
        self.classifier = nn.Linear(pooled, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        """:meth:`Head.forward` of a checked bag. Raises ValueError without ``neighbours``, of which
        a table of any width will do, or if they name tiles that the bag does not have."""
        if neighbours is None:
            raise ValueError(
                "patchgcn needs neighbours int64 [n, 8] of the tiles; "
                "build them from coords with pathgene_rt.geometry.grid_neighbours"
            )
        if not torch.compiler.is_compiling():
            _check_neighbours(neighbours, len(features))
        embeddings = self.phi(self.nodes(features, neighbours)).relu()
        embeddings = self.dropout(embeddings)
        attention, bag = pool(self.attention(embeddings), embeddings)
        slide = self.dropout(self.rho(bag).relu())
        return HeadOutput(self.classifier(slide)[0], attention)

    def nodes(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """Features [n, in_dim] -> float32 [n, width * (convolutions + 1)]: every stage's nodes."""
        stages = [self.dropout(self.embedding(features).relu())]
        stages.append(self.first(stages[0], neighbours))
        for layer in self.layers:
            stages.append(layer(stages[-1], neighbours))
        return torch.cat(stages, dim=1)


class ResidualConv(nn.Module):
    """x + ReLU(LayerNorm(GENConv(x))), nodes float32 [n, width] in and out."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = GENConv(width, bias=bias)
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, nodes: Tensor, sources: Tensor) -> Tensor:
        out: Tensor = nodes + self.norm(self.conv(nodes, sources)).relu()
        return out


def _check_neighbours(neighbours: Tensor, n: int) -> None:
    shape = neighbours.shape
    if len(shape) != 2 or shape[0] != n or shape[1] == 0 or neighbours.dtype != torch.int64:
        raise ValueError(
            f"neighbours are {neighbours.dtype} {list(shape)}, patchgcn takes int64 [{n}, 8] of a "
            f"bag of {n} tiles"
        )
    if int(neighbours.min()) < 0 or int(neighbours.max()) > n:
        raise ValueError(
            f"neighbours name tiles {int(neighbours.min())} to {int(neighbours.max())}, the bag "
            f"has {n} (from 0; {n} stands for none)"
        )
