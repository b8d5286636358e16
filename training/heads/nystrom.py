"""Nystrom attention (Y. Xiong et al., "Nystromformer", AAAI 2021) as TransMIL and MHIM-MIL use it:
the package nystrom-attention 0.0.14 with 256 landmarks, six steps of the pseudo-inverse and a
convolution of the values as residual.

Three of its habits are part of what published weights mean and are kept: a sequence is filled up to
a multiple of 256 with rows of zeros in front, which no mask hides; landmarks are means of equal
groups of that longer sequence; the start value of the pseudo-inverse is scaled by maxima over all
heads together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from typing_extensions import override

WIDTH = 512
_HEADS = 8
_HEAD_WIDTH = WIDTH // _HEADS
_SCALE = _HEAD_WIDTH**-0.5
_LANDMARKS = 256
_PINV_STEPS = 6
_REACH = 16


class NystromAttention(nn.Module):
    """Tokens float32 [t, 512] -> float32 [t, 512], by 8 heads. ``dropout`` acts on what it returns.

    Time and memory grow with t, not with its square.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Conv2d(
            _HEADS,
            _HEADS,
            (2 * _REACH + 1, 1),
            padding=(_REACH, 0),
            groups=_HEADS,
            bias=False,
        )

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        filled = _filled(tokens)
        q, k, v = (_by_head(part) for part in self.to_qkv(filled).chunk(3, dim=-1))
        q_landmarks, k_landmarks = _landmarks(q), _landmarks(k)
        # (attn1 @ pinv) @ (attn3 @ v) of the paper, from the right: [256, 64] instead of [t, 256].
        summary = scaled_dot_product_attention(q_landmarks, k, v, scale=_SCALE)
        summary = _pseudo_inverse(_softmax(q_landmarks, k_landmarks)) @ summary
        mixed = scaled_dot_product_attention(q, k_landmarks, summary, scale=_SCALE)
        mixed = mixed + self.residual(v)
        rows = mixed[0].transpose(0, 1).reshape(-1, WIDTH)
        out: Tensor = self.dropout(self.to_out(_unfilled(rows, tokens.shape[0])))
        return out

    def first_token(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Row 0 of :meth:`forward`, float32 [512], and its attention float32 [8, t].

        The attention is the row that Nystrom's product puts in the place of a softmax: it nearly
        sums to one with that of the zeros in front, but single weights may be negative. Queries and
        values of the other tokens are not computed: landmarks are means, so that they follow from
        the means of the tokens, and the values are weighted before they are projected.
        """
        filled = _filled(tokens)
        to_q, to_k, to_v = self.to_qkv.weight.reshape(3, WIDTH, WIDTH)
        groups = filled.reshape(_LANDMARKS, -1, WIDTH).mean(1)
        q_landmarks, k_landmarks = _by_head(groups @ to_q.T), _by_head(groups @ to_k.T)
        row = _softmax(_by_head(tokens[:1] @ to_q.T), k_landmarks)
        row = row @ _pseudo_inverse(_softmax(q_landmarks, k_landmarks))
        row = row @ _softmax(q_landmarks, _by_head(filled @ to_k.T))
        attention = row[0, :, 0]
        values = to_v.reshape(_HEADS, _HEAD_WIDTH, WIDTH)
        pooled = (values @ (attention @ filled)[:, :, None])[:, :, 0]
        # In front of the first token there are zeros only: of the kernel the later half meets it.
        following = tokens[: _REACH + 1]
        taps = self.residual.weight[:, 0, _REACH:, 0][:, : following.shape[0]]
        pooled = pooled + (values @ (taps @ following)[:, :, None])[:, :, 0]
        out: Tensor = self.dropout(self.to_out(pooled.reshape(WIDTH)))
        return out, _unfilled(attention.T, tokens.shape[0]).T

    def attended_values(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """The values of the tokens, each weighted by ``attention`` float32 [8, t], as the output
        projection sees them: float32 [t, 512]."""
        values = self.to_qkv(tokens)[:, 2 * WIDTH :].reshape(-1, _HEADS, _HEAD_WIDTH)
        weighted = (values * attention.T[:, :, None]).reshape(-1, WIDTH)
        out: Tensor = self.dropout(self.to_out(weighted))
        return out


class NystromLayer(nn.Module):
    """Attention over normalised tokens, added to them: float32 [t, 512] -> [t, 512]."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = NystromAttention(dropout)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = self.attention(self.norm(tokens))
        return tokens + added

    def first_token(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Row 0 of :meth:`forward`, float32 [512], and its attention float32 [8, t]."""
        added, attention = self.attention.first_token(self.norm(tokens))
        return tokens[0] + added, attention

    def attended_values(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """What each token adds to token 0 by ``attention`` float32 [8, t], before they are summed:
        float32 [t, 512]."""
        return self.attention.attended_values(self.norm(tokens), attention)


def _filled(tokens: Tensor) -> Tensor:
    """[t, 512] with zeros in front -> [p, 512], p the next multiple of the landmarks."""
    length = tokens.shape[0]
    groups = (length + _LANDMARKS - 1) // _LANDMARKS
    return pad(tokens, (0, 0, groups * _LANDMARKS - length, 0))


def _unfilled(rows: Tensor, length: int) -> Tensor:
    """The last ``length`` rows: those that are not of the zeros in front."""
    return rows.narrow(0, rows.shape[0] - length, length)


def _by_head(rows: Tensor) -> Tensor:
    """[t, 512] -> [1, heads, t, 64], the batch of one that fused attention kernels ask for."""
    return rows.reshape(-1, _HEADS, _HEAD_WIDTH).transpose(0, 1)[None]


def _landmarks(rows: Tensor) -> Tensor:
    """[1, heads, p, 64] -> means of equal groups [1, heads, 256, 64]."""
    return rows.reshape(1, _HEADS, _LANDMARKS, -1, _HEAD_WIDTH).mean(3)


def _softmax(queries: Tensor, keys: Tensor) -> Tensor:
    scores: Tensor = queries * _SCALE @ keys.transpose(-1, -2)
    return scores.softmax(dim=-1)


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    """Of matrices [1, heads, m, m] with entries >= 0, by the third-order iteration of the paper
    (equation 11)."""
    identity = torch.eye(_LANDMARKS, dtype=matrix.dtype, device=matrix.device)
    inverse: Tensor = matrix.transpose(-1, -2) / (matrix.sum(-1).max() * matrix.sum(-2).max())
    for _ in range(_PINV_STEPS):
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = 0.25 * inverse @ (13 * identity - product @ inner)
    return inverse
