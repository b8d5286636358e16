"""TransMIL (Z. Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for
Whole Slide Image Classification", NeurIPS 2021).

PathGene's copy is the same network at any ``in_dim``, scored by a sigmoid. Trained by the loss of
its logits, as in the paper; the paper's optimizer (Lookahead over RAdam) is the loop's choice.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.base import Head, HeadOutput
from pathgene_rt.training.heads.nystrom import WIDTH, NystromLayer

_LARGEST_SIDE = 4096


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TransMILOptions:
    """``dropout`` acts on what the attention layers return, in training."""

    dropout: float = Field(default=0.1, ge=0, lt=1)


class TransMIL(Head):
    """Two layers of Nystrom attention over the tiles as they come, laid out row by row on a square
    grid between them; the class token is classified.

    The square has side ceil(sqrt(n)); what it lacks is filled with copies of the first tiles, which
    stay in the sequence. ``attention`` [n, 1] is an attribution, not a pooling weight: the class
    token's row of the last layer's attention, averaged over heads, without its negative entries,
    the copies added to their tiles, normalised over the tiles. What tiles exchange in the first
    layer and by their position is not in it. Uniform if no entry is positive.
    """

    architecture = "transmil"
    Options = TransMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: TransMILOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.projection = nn.Linear(in_dim, WIDTH)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layer1 = NystromLayer(options.dropout)
        self.position = PositionalConvolutions()
        self.layer2 = NystromLayer(options.dropout)
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        bag, attention = self.pool(features)
        return HeadOutput(self.classifier(bag), attention)

    def pool(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features float32 [n, in_dim] -> the bag vector float32 [512] that is classified, and the
        attention float32 [n, 1]."""
        n = features.shape[0]
        grid = square_grid(n)
        tiles = self.projection(features).relu()
        copies = tiles.narrow(0, 0, grid[0] * grid[1] - n)
        tokens = self.layer1(torch.cat([self.class_token[0], tiles, copies]))
        tokens = torch.cat([tokens[:1], self.position(tokens[1:], grid)])
        token, weights = self.layer2.first_token(tokens)
        return self.norm(token), attribution(weights[:, 1:], n)


class PositionalConvolutions(nn.Module):
    """PPEG of the paper: tokens on a square grid plus their 7 x 7, 5 x 5 and 3 x 3 depth-wise
    convolutions, float32 [rows * columns, 512] -> the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH)
        self.proj1 = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.proj2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    @override
    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        image = tokens.T.reshape(1, WIDTH, *grid)
        # The sum of convolutions is the convolution by the sum of their kernels.
        kernel = (
            self.proj.weight + pad(self.proj1.weight, (1,) * 4) + pad(self.proj2.weight, (2,) * 4)
        )
        assert not (self.proj.bias is None or self.proj1.bias is None or self.proj2.bias is None)
        bias = self.proj.bias + self.proj1.bias + self.proj2.bias
        convolved = conv2d(image, kernel, bias, padding=3, groups=WIDTH)
        return tokens + convolved.reshape(WIDTH, grid[0] * grid[1]).T


def square_grid(n: int) -> tuple[int, int]:
    """(ceil(sqrt(n)), the same) for 1 <= n <= 4096^2: rows and columns.

    It counts the smaller squares, because graphs compute it too and a square root in float32 would
    have to be corrected. They are two sizes there, as graphs would take the power of one, which
    TensorRT has not for integers.
    """
    sides = torch.arange(_LARGEST_SIDE)
    smaller = sides * sides < n
    rows, columns = cast(int, smaller.sum().item()), cast(int, smaller.sum().item())
    for size in (rows, columns):
        torch._check(size >= 1)  # type: ignore[no-untyped-call]
    return rows, columns


def attribution(weights: Tensor, n: int) -> Tensor:
    """Attention [heads, m] to n tiles and to copies of the first m - n of them -> [n, 1], the mean
    of the heads without what is negative, summing to one."""
    mean = weights.mean(0).relu()
    copies = mean.shape[0] - n
    mean = mean.narrow(0, 0, n) + pad(mean.narrow(0, n, copies), (0, n - copies))
    mean = mean + (mean.sum() == 0)
    return (mean / mean.sum())[:, None]
