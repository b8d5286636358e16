"""ViT-4K: the transformer over the tiles of one region, of HIPT (R. Chen et al., "Scaling Vision
Transformers to Gigapixel Images via Hierarchical Self-Supervised Learning", CVPR 2022). The
transformer: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate
from typing_extensions import override

from pathgene_rt.training.heads.dot_attention import weighted
from pathgene_rt.training.mlp import Mlp

WIDTH = 192
_BLOCKS = 6
_HEADS = 6
_TABLE = 14
"""The position table is that of 14 x 14 tiles, the size it was published with."""

_NORM_EPS = 1e-6
_ABSENT = -6e4
"""Added to the scores of tiles that a region does not have. FP16 can hold it."""


class RegionTransformer(nn.Module):
    """Tiles of regions float32 [regions, in_dim, rows, columns] -> vectors [regions, 192].

    A region's vector is that of its class token. Positions of other than 14 x 14 tiles are the
    bicubic resize of the table, by the factor (size + 0.1) / 14 as its authors do it.
    """

    resize: Tensor

    def __init__(self, in_dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.phi = nn.Linear(in_dim, WIDTH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _TABLE**2, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.register_buffer("resize", _resize(rows, columns), persistent=False)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    @override
    def forward(self, regions: Tensor) -> Tensor:
        vectors, _ = self.pool(self.embed(regions.flatten(2).transpose(1, 2)), None)
        return vectors

    def embed(self, tiles: Tensor) -> Tensor:
        """Tiles [..., in_dim] -> tokens [..., 192]."""
        return gelu(self.phi(tiles))

    def pool(self, tokens: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens [regions, rows * columns, 192] -> (vectors [regions, 192], shares of the tiles
        [regions, rows * columns]).

        ``present`` bool [regions, rows * columns] says which tiles a region has, None for all; the
        others are attended by none. Shares are alike: the class token's attention, one a head and
        block, says little of a tile's weight.
        """
        mask = None
        if present is not None:
            # The class token, which is always there, goes in front.
            seen = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
            mask = torch.where(seen, 0.0, _ABSENT)[:, None, None, :]
        positions = self.resize @ self.pos_embed[0, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([first, tokens + positions], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, mask)
        vectors: Tensor = self.norm(self.blocks[-1](tokens, mask, queries=1))[:, 0]
        here = torch.ones_like(tokens[:, 1:, 0]) if present is None else present.to(tokens.dtype)
        return vectors, here / here.sum(dim=1, keepdim=True)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut.

    Tokens float32 [regions, t, 192] -> those of the first ``queries`` of them, of all by default.
    ``mask`` float32 [regions, 1, 1, t] is added to the scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.attn = SelfAttention(WIDTH, _HEADS)
        self.norm2 = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.mlp = Mlp(WIDTH)

    @override
    def forward(self, tokens: Tensor, mask: Tensor | None, queries: int | None = None) -> Tensor:
        tokens = tokens[:, :queries] + self.attn(self.norm1(tokens), mask, queries)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class SelfAttention(nn.Module):
    """Tokens float32 [batch, t, width] -> [batch, t, width], or the first ``queries`` of them.

    ``any_length`` says that t differs from call to call: a graph then multiplies as
    :func:`~pathgene_rt.training.heads.dot_attention.weighted` does, which TensorRT for RTX has not
    for the 257 tokens of a region.
    """

    def __init__(self, width: int, heads: int, *, any_length: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.any_length = any_length
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    @override
    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, queries: int | None = None
    ) -> Tensor:
        size = tokens.shape[2] // self.heads
        query, key, value = (
            self.qkv(tokens)
            .reshape(-1, tokens.shape[1], 3, self.heads, size)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        scores = (query[:, :, :queries] * size**-0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores + mask
        attention = scores.softmax(dim=-1)
        mixed = weighted(attention, value) if self.any_length else attention @ value
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


def _resize(rows: int, columns: int) -> Tensor:
    """float32 [rows * columns, 196]: the resize of the position table as one matrix."""
    table = torch.eye(_TABLE**2)
    if (rows, columns) == (_TABLE, _TABLE):
        return table
    resized = interpolate(
        table.reshape(-1, 1, _TABLE, _TABLE),
        scale_factor=((rows + 0.1) / _TABLE, (columns + 0.1) / _TABLE),
        mode="bicubic",
    )
    return resized.flatten(1).T.contiguous()
