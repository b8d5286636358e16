"""Attention over the tiles of a bag (M. Ilse, J. Tomczak, M. Welling, "Attention-based Deep
Multiple Instance Learning", ICML 2018), shared by the heads that pool with it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from typing_extensions import override

from pathgene_rt.training.heads.base import Head, HeadOutput
from pathgene_rt.training.heads.dropout import BagDropout

_BLOCK = 64
"""Columns of the hidden width at a time in a graph: ONNX Runtime keeps three arrays of them."""


class AttentionScores(nn.Module):
    """Embeddings float32 [n, width] -> raw scores float32 [n, columns], one column an attention.

    Ungated: score(tanh(Vh)). Gated: score(tanh(Vh) * sigmoid(Uh)), equations 8 and 9 of the paper.

    Graphs go through the hidden width in blocks whose scores add up, so that engines hold a few
    arrays [n, 96] beside the embeddings and not three of [n, hidden], in the same time.
    """

    def __init__(
        self, width: int, hidden: int, *, gated: bool, dropout: float = 0.0, columns: int = 1
    ) -> None:
        super().__init__()
        self.tanh = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.score = nn.Linear(hidden, columns)
        self.dropout = BagDropout(dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        width = _BLOCK if torch.compiler.is_compiling() else self.tanh.out_features
        scores: Tensor = self.score.bias
        for start in range(0, self.tanh.out_features, width):
            block = slice(start, start + width)
            hidden = self.dropout(_outputs(self.tanh, block, embeddings).tanh())
            if self.gate is not None:
                hidden = hidden * self.dropout(_outputs(self.gate, block, embeddings).sigmoid())
            scores = scores + linear(hidden, self.score.weight[:, block])
        return scores


def _outputs(layer: nn.Linear, block: slice, embeddings: Tensor) -> Tensor:
    """The outputs [n, block] of ``layer``."""
    return linear(embeddings, layer.weight[block], layer.bias[block])


def pool(scores: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, k] and embeddings [n, width] -> (attention [n, k], bag vectors [k, width]).

    Attention is the softmax of the scores over the tiles, the bag vectors the sums it weights.
    """
    attention = scores.softmax(dim=0)
    return attention, attention.T @ embeddings


class AttentionHead(Head):
    """A head whose score and value of a tile depend on that tile alone: it pools once and then
    classifies, so that its bag can be pooled batch by batch (``export/incremental_pooling.py``)."""

    @abstractmethod
    def instances(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features float32 [n, in_dim] -> (scores [n, k], the values [n, width] they weight)."""

    @abstractmethod
    def classify(self, bags: Tensor) -> Tensor:
        """Bag vectors float32 [..., k, width] -> logits float32 [..., classes]."""

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        attention, bags = pool(*self.instances(features))
        return HeadOutput(self.classify(bags), attention)
