"""The blocks of RRT: attention within regions of the tile grid and across them, which re-embeds
tiles before they are pooled.

Tiles are laid out row by row, in their own order, on the smallest square grid whose side is a
multiple of the regions a side. The places that are left over, all at the end, are filled with zeros
after the normalisation and are not masked: they take part in attention and in what a region is
summed up to. Published weights were trained so, and it is kept.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from typing_extensions import override

from pathgene_rt.training.heads.dot_attention import attend
from pathgene_rt.training.heads.dropout import BagDropout
from pathgene_rt.training.heads.grid_side import grid_side

CROSS_REGIONS = 8
"""Regions a side of the attention across regions, however many the layers before it have."""

_EPSILON = 1e-8


class SelfAttention(nn.Module):
    """Sequences float32 [s, t, width] -> float32 [s, t, width], each attending to itself.

    ``epeg_k`` > 0 adds EPEG, the position code of RRT: along the queries, the logits of attention
    are convolved with an odd kernel of a head's own, and added. Since logits are linear in the
    queries, the queries are convolved here instead, which no longer needs the t x t logits as an
    array. The bias of the published convolution adds the same to all logits of a query, which
    softmax removes; there is none here.
    """

    def __init__(self, width: int, heads: int, *, epeg_k: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.epeg = nn.Parameter(torch.empty(heads, 1, epeg_k, 1)) if epeg_k else None
        if self.epeg is not None:
            nn.init.xavier_normal_(self.epeg)
        self.dropout = BagDropout(dropout)

    @override
    def forward(self, sequences: Tensor) -> Tensor:
        count, length, width = sequences.shape
        split = self.qkv(sequences).reshape(count, length, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.epeg is not None:
            reach = self.epeg.shape[2] // 2
            near = conv2d(queries, self.epeg, padding=(reach, 0), groups=self.heads)
            queries = queries + near
        mixed = attend(queries, keys, values).transpose(1, 2).reshape(count, length, width)
        out: Tensor = self.dropout(self.proj(mixed))
        return out


class RegionAttention(nn.Module):
    """R-MSA: tiles float32 [n, width] attend within each of ``regions`` x ``regions`` regions."""

    def __init__(
        self, width: int, heads: int, *, regions: int, epeg_k: int, dropout: float
    ) -> None:
        super().__init__()
        self.regions = regions
        self.attention = SelfAttention(width, heads, epeg_k=epeg_k, dropout=dropout)

    @override
    def forward(self, tiles: Tensor) -> Tensor:
        side = grid_side(tiles.shape[0], self.regions)
        mixed = self.attention(into_regions(tiles, self.regions, side))
        return out_of_regions(mixed, self.regions, side, tiles.shape[0])


class CrossRegionAttention(nn.Module):
    """CR-MSA: each of 8 x 8 regions is summed up in ``slots`` tokens, tokens of the same slot
    attend to each other across regions, and are given back to their region's tiles.

    A tile's share in a token is the softmax over the region of its affinity to the slot; what it
    gets back is the token times its affinity scaled to 0..1 within the region, times the softmax of
    its affinities over the slots. Affinities are linear (``phi``), or of a layer between with
    ``hidden``.
    """

    def __init__(self, width: int, heads: int, *, slots: int, hidden: bool, dropout: float) -> None:
        super().__init__()
        self.phi: nn.Module | nn.Parameter
        if hidden:
            self.phi = nn.Sequential(
                nn.Linear(width, width // 4, bias=False),
                nn.Tanh(),
                nn.Linear(width // 4, slots, bias=False),
            )
        else:
            self.phi = nn.Parameter(torch.empty(width, slots))
            nn.init.kaiming_uniform_(self.phi, a=sqrt(5))
        self.attention = SelfAttention(width, heads, dropout=dropout)

    @override
    def forward(self, tiles: Tensor) -> Tensor:
        side = grid_side(tiles.shape[0], CROSS_REGIONS)
        regions = into_regions(tiles, CROSS_REGIONS, side)
        affinity = self.phi(regions) if isinstance(self.phi, nn.Module) else regions @ self.phi
        share = affinity.softmax(dim=1)
        tokens = share.transpose(1, 2) @ regions
        tokens = self.attention(tokens.transpose(0, 1)).transpose(0, 1)
        lowest, highest = affinity.amin(1, keepdim=True), affinity.amax(1, keepdim=True)
        # Published: + 1e-8, which the exporter would fold away. It matters where a region is one
        # place, whose tile gets nothing back.
        scaled = (affinity - lowest) / (highest - lowest).clamp(min=_EPSILON)
        mixed = (scaled * affinity.softmax(dim=2)) @ tokens
        return out_of_regions(mixed, CROSS_REGIONS, side, tiles.shape[0])


class ReembeddingLayer(nn.Module):
    """``attention`` over normalised tiles, added to them, and with ``ffn`` a feed-forward block of
    four times the width: float32 [n, width] -> [n, width]."""

    def __init__(self, attention: nn.Module, width: int, *, ffn: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            BagDropout(dropout),
            nn.Linear(4 * width, width),
            BagDropout(dropout),
        )
        self.feed_forward = feed_forward if ffn else None

    @override
    def forward(self, tiles: Tensor) -> Tensor:
        tiles = tiles + self.attention(self.norm(tiles))
        return tiles if self.feed_forward is None else tiles + self.feed_forward(tiles)


def into_regions(tiles: Tensor, regions: int, side: int) -> Tensor:
    """[n, c] -> [regions^2, side^2, c], places without a tile zero."""
    n, channels = tiles.shape
    grid = pad(tiles, (0, 0, 0, (regions * side) ** 2 - n))
    grid = grid.reshape(regions, side, regions, side, channels)
    return grid.transpose(1, 2).reshape(regions * regions, side * side, channels)


def out_of_regions(cut: Tensor, regions: int, side: int, n: int) -> Tensor:
    """:func:`into_regions` undone: [regions^2, side^2, c] -> [n, c]."""
    grid = cut.reshape(regions, regions, side, side, -1).transpose(1, 2)
    return grid.reshape((regions * side) ** 2, cut.shape[2])[:n]
