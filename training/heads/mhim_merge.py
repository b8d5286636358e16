"""MHIM-v2's merging: tiles summed up by a few learned queries, so that what is hidden from the
student is not lost to it (section 3.3 of the IJCV paper)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

_HEADS = 8
_DROPOUT = 0.1


class Merge(nn.Module):
    """Cross-attention of ``count`` queries over tokens. The queries learn from no gradient: they
    follow what they returned, at ``momentum``, when :meth:`reduced` is called in training."""

    query: Tensor

    def __init__(self, width: int, count: int, *, keep: float, momentum: float) -> None:
        super().__init__()
        self.keep = keep
        self.momentum = momentum
        # The bound of visual prompt tuning for patches of 16 x 16 pixels, as in the original.
        bound = math.sqrt(6 / (3 * 16 * 16 + width))
        self.register_buffer("query", torch.empty(1, count, width).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.dropout = nn.Dropout(_DROPOUT)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens float32 [m, width] -> [count, width]."""
        # Normalised together: exporters do not fold the norm of a constant.
        normalised = self.norm(torch.cat([self.query[0], tokens]))
        count = self.query.shape[1]
        q = self.to_q(normalised[:count])
        k, v = self.to_kv(normalised[count:]).chunk(2, dim=-1)
        # Tokens before queries, softmax over the tokens: OpenVINO 2026.4 fuses the usual order, and
        # what it fuses is wrong as soon as a bag is larger than the one before.
        scores = _by_head(k) @ _by_head(q).transpose(1, 2) * (k.shape[1] // _HEADS) ** -0.5
        attention = self.attention_dropout(scores.softmax(dim=1))
        mixed = attention.transpose(1, 2) @ _by_head(v)
        rows = mixed.transpose(0, 1).reshape(q.shape)
        merged: Tensor = self.dropout(self.to_out(rows))
        return merged

    def reduced(self, tokens: Tensor) -> Tensor:
        """A random share ``keep`` of the tokens [m, width] in their order, then the others merged:
        [floor(keep * m) + count, width]."""
        chosen = torch.rand(len(tokens)).argsort()[: int(len(tokens) * self.keep)]
        kept = torch.zeros(len(tokens), dtype=torch.bool)
        kept[chosen] = True
        kept = kept.to(tokens.device)
        merged = self(tokens[~kept])
        if self.training:
            with torch.no_grad():
                self.query.lerp_(merged[None], 1 - self.momentum)
        return torch.cat([tokens[kept], merged])


def _by_head(rows: Tensor) -> Tensor:
    """[t, width] -> [heads, t, width / heads]."""
    return rows.reshape(rows.shape[0], _HEADS, -1).transpose(0, 1)
