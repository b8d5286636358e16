"""Which tiles MHIM-MIL hides from its student (section 3.2 of the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Shares of a bag that are hidden: ``high`` those with the highest scores (drawn from so many
    more that they are the share ``high_share`` of them), ``low`` those with the lowest, ``random``
    any. The three may overlap."""

    high: float
    high_share: float
    low: float
    random: float

    def kept(self, scores: Tensor) -> Tensor:
        """Scores float32 [heads, n] -> int64 [kept], the tiles that are not hidden, in their order.

        At least one is: if all would be hidden, the tile with the lowest mean score.
        """
        n = scores.shape[1]
        hidden = torch.zeros(n, dtype=torch.bool, device=scores.device)
        if self.random > 0:
            hidden[_drawn(torch.arange(n), math.ceil(n * self.random))] = True
        if self.low > 0:
            hidden[ranked(-scores, math.ceil(n * self.low))] = True
        if self.high > 0:
            tops = ranked(scores, math.ceil(n * min(self.high / self.high_share, 1)))
            share = max(self.high_share, self.high)
            hidden[_drawn(tops, math.ceil(len(tops) * share))] = True
        if hidden.all():
            hidden[scores.mean(0).argmin()] = False
        return (~hidden).nonzero()[:, 0]


def ranked(scores: Tensor, count: int) -> Tensor:
    """The ``count`` tiles that most heads have among their ``count`` highest, of scores float32
    [heads, n]; of one head its highest."""
    highest = scores.topk(count, dim=1).indices
    if len(scores) == 1:
        return highest[0]
    votes = highest.flatten().bincount(minlength=scores.shape[1])
    return votes.topk(count).indices


def _drawn(tiles: Tensor, count: int) -> Tensor:
    return tiles[torch.randperm(len(tiles))[:count].to(tiles.device)]
