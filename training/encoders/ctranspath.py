"""CTransPath: Swin-T with a convolutional stem, as an encoder of pathology tiles.

X. Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image
classification", Medical Image Analysis 81 (2022). The transformer: Z. Liu et al., "Swin
Transformer", ICCV 2021. Parameter names are those of the published ``ctranspath.pth``.

Written for inference: no stochastic depth, fixed 224 x 224 pixels, shapes that hold the batch only
as -1, so that the batch stays dynamic in an exported graph, and attention over 4-D arrays with one
additive table, which engines fuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pathgene_rt.training.checkpoint import load_strictly, read_torch_file, state_dict_of
from pathgene_rt.training.mlp import Mlp

IMAGE_PX = 224
FEATURE_DIM = 768

STEM_STRIDE = 4
WINDOW = 7
_WIDTH = 96
_DEPTHS = (2, 2, 6, 2)
_HEADS = (3, 6, 12, 24)
HEAD_DIM = 32
_BLOCKED = -100.0
"""Added to attention between parts of a shifted window that are not neighbours in the image.
Part of the published state dict; small enough for FP16."""


class ConvStem(nn.Module):
    """Pixels float32 [n, 3, 224, 224] -> tokens float32 [n, 56, 56, 96]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, _WIDTH // 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH // 8),
            nn.ReLU(),
            nn.Conv2d(_WIDTH // 8, _WIDTH // 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH // 4),
            nn.ReLU(),
            nn.Conv2d(_WIDTH // 4, _WIDTH, 1),
        )
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class WindowAttention(nn.Module):
    """Attention among the 49 tokens of each window, float32 [n * windows, 49, C] in and out.

    ``mask`` float32 [windows, 49, 49] or None is added to the scores of every head.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_position_index())

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        bias = self.bias_table(mask)
        tokens = windows.shape[1]
        qkv = self.qkv(windows).reshape(-1, tokens, 3, self.heads, HEAD_DIM)
        # The windows of one image are folded into the heads, so that the mask, which differs from
        # window to window, is one table that broadcasts over images.
        query, key, value = (
            qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, bias.shape[0], tokens, HEAD_DIM).unbind(0)
        )
        scores = (query * HEAD_DIM**-0.5) @ key.transpose(-2, -1) + bias
        mixed = scores.softmax(dim=-1) @ value
        mixed = mixed.reshape(-1, self.heads, tokens, HEAD_DIM).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(-1, tokens, self.heads * HEAD_DIM))
        return out

    def bias_table(self, mask: Tensor | None) -> Tensor:
        """float32 [heads, 49, 49], or [windows * heads, 49, 49] where windows are masked.

        Of weights only: an exporter folds it into a constant.
        """
        tokens = self.relative_position_index.shape[0]
        table = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        bias = table.T.reshape(self.heads, tokens, tokens)
        if mask is None:
            return bias
        return (mask.unsqueeze(1) + bias).reshape(-1, tokens, tokens)


class SwinBlock(nn.Module):
    """Window attention and MLP, each behind a LayerNorm and beside a shortcut.

    Tokens float32 [n, side, side, width] in and out. ``shift`` rolls the image by that many tokens
    before it is cut into windows.
    """

    attn_mask: Tensor | None

    def __init__(self, width: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side = side
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.register_buffer("attn_mask", _shift_mask(side, shift) if shift else None)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out

    def _attend(self, tokens: Tensor) -> Tensor:
        if self.shift:
            tokens = tokens.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(to_windows(tokens), self.attn_mask)
        tokens = _from_windows(windows, self.side)
        if self.shift:
            tokens = tokens.roll((self.shift, self.shift), dims=(1, 2))
        return tokens


class PatchMerging(nn.Module):
    """Each 2 x 2 tokens become one: [n, side, side, C] -> [n, side / 2, side / 2, 2 C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        _, side, _, width = tokens.shape
        squares = tokens.reshape(-1, side // 2, 2, side // 2, 2, width)
        # The published weights expect the four tokens column by column.
        joined = squares.permute(0, 1, 3, 4, 2, 5).reshape(-1, side // 2, side // 2, 4 * width)
        out: Tensor = self.reduction(self.norm(joined))
        return out


class Stage(nn.Module):
    """Blocks of one resolution, every second one shifted, and the merging that ends the stage."""

    def __init__(self, width: int, depth: int, heads: int, side: int, *, merge: bool) -> None:
        super().__init__()
        # A single window has no neighbour to exchange tokens with.
        shift = WINDOW // 2 if side > WINDOW else 0
        self.blocks = nn.Sequential(
            *(SwinBlock(width, heads, side, shift if block % 2 else 0) for block in range(depth))
        )
        self.downsample = PatchMerging(width) if merge else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.downsample(self.blocks(tokens))
        return out


class CTransPath(nn.Module):
    """Pixels float32 [n, 3, 224, 224], ImageNet-normalised RGB -> features float32 [n, 768]."""

    architecture = "ctranspath"
    feature_dim = FEATURE_DIM

    def __init__(self) -> None:
        super().__init__()
        side = IMAGE_PX // STEM_STRIDE
        last = len(_DEPTHS) - 1
        self.patch_embed = ConvStem()
        self.layers = nn.Sequential(
            *(
                Stage(_WIDTH << number, depth, heads, side >> number, merge=number < last)
                for number, (depth, heads) in enumerate(zip(_DEPTHS, _HEADS, strict=True))
            )
        )
        self.norm = nn.LayerNorm(FEATURE_DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.norm(self.layers(self.patch_embed(pixels)))
        features: Tensor = tokens.flatten(1, 2).mean(dim=1)
        return features

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | Mapping[str, object]) -> CTransPath:
        """The encoder of a published-layout checkpoint, in eval mode.

        ``checkpoint`` is a file or a loaded one: a state dict, plain or under ``"model"``, with or
        without a classification head and ``module.`` prefixes. Raises
        :class:`~pathgene_rt.errors.CheckpointError` if the file is none, or if keys or shapes are
        not exactly those of this encoder.
        """
        content: object = checkpoint
        source = "the given state dict"
        if isinstance(checkpoint, Path):
            content, source = read_torch_file(checkpoint), str(checkpoint)
        state = state_dict_of(content, source)
        state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
        encoder = cls()
        load_strictly(encoder, state, source)
        return encoder.eval()

    @classmethod
    def seeded(cls, seed: int, gain: float = 2.5) -> CTransPath:
        """An encoder with random weights that are the same on every machine, for demos and tests.

        Matrices and convolutions are normal with standard deviation ``gain / sqrt(fan_in)``. With
        a gain of 1 nearly all of a feature vector is common to all tiles; 2.5 lets tiles differ
        about as much as under trained weights.
        """
        random = np.random.default_rng(seed)
        encoder = cls()
        with torch.no_grad():
            for name, parameter in sorted(encoder.named_parameters()):
                if parameter.ndim >= 2:
                    drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                    parameter.copy_(torch.from_numpy(drawn) * (gain / parameter[0].numel() ** 0.5))
                else:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        return encoder.eval()


def to_windows(tokens: Tensor) -> Tensor:
    """[n, side, side, C] -> [n * windows, 49, C], windows in reading order."""
    _, side, _, width = tokens.shape
    count = side // WINDOW
    squares = tokens.reshape(-1, count, WINDOW, count, WINDOW, width)
    return squares.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, width)


def _from_windows(windows: Tensor, side: int) -> Tensor:
    """The inverse of :func:`to_windows` for images of ``side`` tokens."""
    count = side // WINDOW
    squares = windows.reshape(-1, count, count, WINDOW, WINDOW, windows.shape[-1])
    return squares.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, windows.shape[-1])


def _relative_position_index() -> Tensor:
    """int64 [49, 49]: row of the bias table for each pair of tokens of a window."""
    steps = torch.arange(WINDOW)
    row = steps.repeat_interleave(WINDOW)
    column = steps.repeat(WINDOW)
    down = row[:, None] - row[None, :] + WINDOW - 1
    right = column[:, None] - column[None, :] + WINDOW - 1
    return down * (2 * WINDOW - 1) + right


def _shift_mask(side: int, shift: int) -> Tensor:
    """float32 [windows, 49, 49]: 0 between tokens that were neighbours before the roll, else -100.

    After rolling by ``shift`` the last window of a row holds two strips from opposite edges of the
    image, and the corner window four.
    """
    strip = torch.zeros(side)
    strip[-WINDOW:] = 1
    strip[-shift:] = 2
    region = (3 * strip[:, None] + strip[None, :]).reshape(1, side, side, 1)
    region = to_windows(region).squeeze(-1)
    apart = region[:, :, None] != region[:, None, :]
    return torch.where(apart, _BLOCKED, 0.0)
