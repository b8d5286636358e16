"""Patch-GCN (R. Chen et al., "Whole Slide Images are 2D Point Clouds: Context-Aware Survival
Prediction using Patch-based Graph Convolutional Networks", MICCAI 2021), as a classifier.

Trained by the loss of its logits: the paper's survival loss is left out, PathGene trains this
classifier too (with ``bias=False``, the layout of the torch_geometric it ran on). Messages flow
along ``edges``, from row 0 to row 1; the authors link each tile to its eight nearest, this runtime
to its neighbours on the grid. A bag without edges (n = 1) is a graph of isolated tiles.
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
from pathgene_rt.training.heads.genconv import GENConv, Incoming, incoming


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
    inputs = ("features", "edges")
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
    def score(self, features: Tensor, coords: Tensor | None, edges: Tensor | None) -> HeadOutput:
        """:meth:`Head.forward` of a checked bag. Raises ValueError without ``edges`` or if they
        name tiles that the bag does not have."""
        if edges is None:
            raise ValueError(
                "patchgcn needs edges int64 [2, e] between the tiles; "
                "build them from coords with pathgene_rt.geometry.grid_edges"
            )
        if not torch.compiler.is_compiling():
            _check_edges(edges, len(features))
        embeddings = self.phi(self.nodes(features, edges)).relu()
        embeddings = self.dropout(embeddings)
        attention, bag = pool(self.attention(embeddings), embeddings)
        slide = self.dropout(self.rho(bag).relu())
        return HeadOutput(self.classifier(slide)[0], attention)

    def nodes(self, features: Tensor, edges: Tensor) -> Tensor:
        """Features [n, in_dim] -> float32 [n, width * (convolutions + 1)]: every stage's nodes."""
        graph = incoming(edges, features.shape[0])
        stages = [self.dropout(self.embedding(features).relu())]
        stages.append(self.first(stages[0], graph))
        for layer in self.layers:
            stages.append(layer(stages[-1], graph))
        return torch.cat(stages, dim=1)


class ResidualConv(nn.Module):
    """x + ReLU(LayerNorm(GENConv(x))), nodes float32 [n, width] in and out."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = GENConv(width, bias=bias)
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, nodes: Tensor, graph: Incoming) -> Tensor:
        out: Tensor = nodes + self.norm(self.conv(nodes, graph)).relu()
        return out


def _check_edges(edges: Tensor, n: int) -> None:
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype != torch.int64:
        raise ValueError(
            f"edges are {edges.dtype} {list(edges.shape)}, patchgcn takes int64 [2, e]"
        )
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= n):
        raise ValueError(
            f"edges name tiles {int(edges.min())} to {int(edges.max())}, the bag has {n} (from 0)"
        )
