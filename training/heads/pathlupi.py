"""PathLUPI: pathway tokens that gene expression anchors in training ("Genome-Anchored Foundation
Model Embeddings Improve Molecular Prediction from Histology Images", arXiv 2506.19681).

Written from the paper's abstract, which says what the method does (transcriptomes as privileged
information in training, embeddings anchored to the genome, histology alone at inference) and not
how. The design is ours, and published weights do not load:

- One learnable token a pathway attends over the embedded tiles, so that time and memory grow with
  their number, and each token gathers the morphology of its pathway. Tokens then attend to each
  other, since pathways depend on each other. Each layer ends in a feed-forward block.
- In training, each token predicts the slide's score of its pathway by a linear readout of its own,
  and the mean squared error over the pathways that are known is added to the bag's loss, times
  ``anchor_weight``. Scores are standardised over the training slides, so that the error is in units
  of their variance. A slide without expression is trained by its label alone.
- The bag is the attention-pooled tokens beside the readouts. Readouts are classified too since
  they are the anchored quantities: where expression says more than few or noisy labels do, the
  classifier then finds the answer in K numbers instead of K * width. They are computed from the
  tokens; no expression is read at inference.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.errors import UsageError
from pathgene_rt.training.heads.attention import AttentionScores, pool
from pathgene_rt.training.heads.base import BagLoss, Head, HeadOutput
from pathgene_rt.training.heads.dot_attention import weighted, weights
from pathgene_rt.training.heads.dropout import BagDropout

_POOLING_WIDTH = 128


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PathLUPIOptions:
    """``pathways`` is the number of tokens and of scores a slide has in training; 50 are those of
    MSigDB's hallmark collection. ``width`` is that of tokens and embedded tiles, shared by
    ``heads``; ``layers`` the number of times that the tokens attend over the tiles.

    Training: ``anchor_weight`` is the weight of the expression's error; 0 leaves expression out.
    """

    pathways: int = Field(default=50, ge=1, le=4096)
    width: int = Field(default=256, ge=8, le=4096)
    heads: int = Field(default=4, ge=1, le=64)
    layers: int = Field(default=1, ge=1, le=8)
    dropout: float = Field(default=0.25, ge=0, lt=1)
    anchor_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"the heads share {self.width} channels evenly")
        return self


class PathLUPI(Head):
    """Pathway tokens attend over the bag; the tokens are classified.

    ``attention`` [n, 1] is what the tokens look at in the last layer, averaged over heads, and over
    tokens with the weights by which the tokens are pooled. Each token's own is
    :meth:`pathway_attention`.
    """

    architecture = "pathlupi"
    Options = PathLUPIOptions

    def __init__(self, in_dim: int, n_classes: int, options: PathLUPIOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        width = options.width
        self.pathways = options.pathways
        self.anchor_weight = options.anchor_weight
        self.embedding = nn.Sequential(
            nn.Linear(in_dim, width), nn.ReLU(), nn.LayerNorm(width), BagDropout(options.dropout)
        )
        self.tokens = nn.Parameter(torch.randn(options.pathways, width))
        self.layers = nn.ModuleList(
            TokenLayer(width, options.heads, options.dropout) for _ in range(options.layers)
        )
        self.readout = nn.Parameter(torch.randn(options.pathways, width) * width**-0.5)
        self.readout_bias = nn.Parameter(torch.zeros(options.pathways))
        self.attention = AttentionScores(width, _POOLING_WIDTH, gated=True)
        self.classifier = nn.Linear(width + options.pathways, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        tokens, attention = self._attend(features)
        return self._classify(tokens, attention, self._read(tokens))

    def pathway_attention(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> float32 [n, pathways]: where each pathway's token looks."""
        return self._attend(features)[1].T

    def expression(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> the slide's predicted pathway scores float32 [pathways]."""
        return self._read(self._attend(features)[0])

    @override
    def objective(
        self,
        features: Tensor,
        label: Tensor,
        bag_loss: BagLoss,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
        privileged: Tensor | None = None,
    ) -> Tensor:
        self._check(features)
        tokens, attention = self._attend(features)
        scores = self._read(tokens)
        loss = bag_loss(self._classify(tokens, attention, scores).logits, label)
        if privileged is None or self.anchor_weight == 0:
            return loss
        if privileged.shape != scores.shape:
            raise UsageError(
                f"a slide has {privileged.numel()} pathway scores and pathlupi {self.pathways} "
                f"tokens; set the option pathways to {privileged.numel()}"
            )
        known = privileged.isfinite()
        errors = torch.where(known, scores - privileged.nan_to_num(), 0.0).square()
        return loss + self.anchor_weight * errors.sum() / known.sum().clamp(min=1)

    def _attend(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [pathways, width] and their attention [pathways, n] in the last layer."""
        tiles = self.embedding(features)
        tokens, attention = self.tokens, torch.empty(0)
        for layer in self.layers:
            tokens, attention = layer(tokens, tiles)
        return tokens, attention

    def _read(self, tokens: Tensor) -> Tensor:
        return (tokens * self.readout).sum(dim=1) + self.readout_bias

    def _classify(self, tokens: Tensor, attention: Tensor, scores: Tensor) -> HeadOutput:
        importance, bags = pool(self.attention(tokens), tokens)
        logits = self.classifier(torch.cat([bags[0], scores]))
        return HeadOutput(logits, attention.T @ importance)


class TokenLayer(nn.Module):
    """Tokens [k, width] attend over tiles [n, width], then to each other; what they find, and then
    a feed-forward block, is added and normalised. Returns them with their attention over tiles
    [k, n], the mean of the heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.across = TokenAttention(width, heads)
        self.among = TokenAttention(width, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            BagDropout(dropout),
            nn.Linear(2 * width, width),
        )

    @override
    def forward(self, tokens: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor]:
        gathered, attention = self.across(tokens, tiles)
        tokens = self.norms[0](tokens + gathered)
        tokens = self.norms[1](tokens + self.among(tokens, tokens)[0])
        return self.norms[2](tokens + self.feed_forward(tokens)), attention


class TokenAttention(nn.Module):
    """Tokens [k, width] attend over rows [m, width] by ``heads``: float32 [k, width] and the mean
    attention of the heads [k, m]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    @override
    def forward(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(rows).chunk(2, dim=1)
        attention = weights(self._by_head(self.query(tokens)), self._by_head(keys))
        mixed = weighted(attention, self._by_head(values)).transpose(0, 1).flatten(1)
        return self.out(mixed), attention.mean(0)

    def _by_head(self, rows: Tensor) -> Tensor:
        """[m, width] -> [heads, m, width / heads]."""
        return rows.reshape(rows.shape[0], self.heads, -1).transpose(0, 1)
