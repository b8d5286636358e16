"""The function of a CTransPath arranged for engines: less is moved and less is left to compute.

What a block computes does not depend on the order of its windows, so that tokens stay in the order
of the windows and move once between two blocks, where Swin's formulation rolls, cuts and joins the
image around each attention. Gain and offset of the LayerNorms in front of matrices, and the scale
of the queries, become part of the weights. Queries, keys and values have a matrix each: three
outputs need not be copied apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathgene_rt.training.encoders.ctranspath import (
    HEAD_DIM,
    IMAGE_PX,
    STEM_STRIDE,
    WINDOW,
    CTransPath,
    PatchMerging,
    Stage,
    SwinBlock,
    to_windows,
)


class FoldedCTransPath(nn.Module):
    """Pixels float32 [n, 3, 224, 224] -> features float32 [n, 768], those of ``encoder``.

    For inference. Weights into which nothing is folded are shared with ``encoder``.
    """

    def __init__(self, encoder: CTransPath) -> None:
        super().__init__()
        self.stem = encoder.patch_embed
        self.steps = nn.Sequential(*_steps(encoder))
        self.norm = encoder.norm

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.norm(self.steps(self.stem(pixels).flatten(1, 2)))
        features: Tensor = tokens.mean(dim=1)
        return features


def _steps(encoder: CTransPath) -> list[nn.Module]:
    """Blocks and mergings in turn, and before each what puts the tokens in the order it needs.

    An order is int64 [tokens]: the place in the image, in reading order, of each token.
    """
    steps: list[nn.Module] = []
    present = torch.arange((IMAGE_PX // STEM_STRIDE) ** 2)
    for stage in encoder.layers:
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            assert isinstance(block, SwinBlock)
            side = block.side
            wanted = _window_order(side, block.shift)
            steps += [*_moves(present, wanted), _FoldedBlock(block)]
            present = wanted
        if isinstance(stage.downsample, PatchMerging):
            merged = _window_order(side // 2, 0)
            steps += [*_moves(present, _fours(side)[merged]), _FoldedMerging(stage.downsample)]
            present = merged
    return steps


class _Reorder(nn.Module):
    """Tokens [n, t, C] -> [n, len(index), C]."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.index_select(1, self.index)


class _FoldedBlock(nn.Module):
    """A :class:`SwinBlock` on tokens float32 [n, t, C] in the order of its windows, in and out."""

    bias: Tensor

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        attention = block.attn
        qkv, offsets = _behind(block.norm1, attention.qkv)
        weights, biases = list(qkv.chunk(3)), list(offsets.chunk(3))
        weights[0], biases[0] = (part * HEAD_DIM**-0.5 for part in (weights[0], biases[0]))
        self.heads = attention.heads
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.register_buffer("bias", attention.bias_table(block.attn_mask).detach())
        self.proj = attention.proj
        self.fc1 = _linear(*_behind(block.norm2, block.mlp.fc1))
        self.act = block.mlp.act
        self.fc2 = block.mlp.fc2

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(_normalised(tokens))
        out: Tensor = tokens + self.fc2(self.act(self.fc1(_normalised(tokens))))
        return out

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            self._by_head(part(tokens)) for part in (self.query, self.key, self.value)
        )
        mixed = (query @ key.transpose(-2, -1) + self.bias).softmax(dim=-1) @ value
        mixed = mixed.reshape(-1, self.heads, WINDOW**2, HEAD_DIM).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(-1, *tokens.shape[1:]))
        return out

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[n, t, C] -> [*, len(bias), 49, 32]: windows that share a bias table are a batch."""
        split = tokens.reshape(-1, WINDOW**2, self.heads, HEAD_DIM).transpose(1, 2)
        return split.reshape(-1, len(self.bias), WINDOW**2, HEAD_DIM)


class _FoldedMerging(nn.Module):
    """A :class:`PatchMerging` of tokens [n, 4 t, C], each four in a row, to [n, t, 2 C]."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.reduction = _linear(*_behind(merging.norm, merging.reduction))

    def forward(self, tokens: Tensor) -> Tensor:
        fours = tokens.reshape(-1, tokens.shape[1] // 4, 4 * tokens.shape[2])
        out: Tensor = self.reduction(_normalised(fours))
        return out


def _normalised(tokens: Tensor) -> Tensor:
    """LayerNorm without gain and offset; torch's default epsilon is that of the encoder."""
    return functional.layer_norm(tokens, tokens.shape[-1:])


def _behind(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of what ``linear`` after ``norm`` is after :func:`_normalised`."""
    weight = linear.weight.detach().double()
    bias = weight @ norm.bias.detach().double()
    if linear.bias is not None:
        bias = bias + linear.bias.detach()
    return weight * norm.weight.detach(), bias


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.float().contiguous())
    linear.bias = nn.Parameter(bias.float().contiguous())
    return linear


def _moves(present: Tensor, wanted: Tensor) -> list[_Reorder]:
    """What takes tokens from one order to another: nothing if it is the same."""
    index = present.argsort()[wanted.flatten()]
    return [] if torch.equal(index, torch.arange(len(present))) else [_Reorder(index)]


def _window_order(side: int, shift: int) -> Tensor:
    """The order of an image of ``side`` tokens rolled by ``shift`` and cut into windows."""
    image = torch.arange(side * side).reshape(1, side, side, 1)
    return to_windows(image.roll((-shift, -shift), dims=(1, 2))).flatten()


def _fours(side: int) -> Tensor:
    """int64 [tokens / 4, 4]: the tokens of each square that merging joins, column by column."""
    squares = torch.arange(side * side).reshape(side // 2, 2, side // 2, 2)
    return squares.permute(0, 2, 3, 1).reshape(-1, 4)
