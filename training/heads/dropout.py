"""Dropout of whole bags: on a CPU, torch's own takes a fifth of an attention head's step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from typing_extensions import override

_LEVELS = 256


class BagDropout(nn.Module):
    """In training, sets each number to 0 with ``probability`` and scales the rest to keep the mean.

    On a CPU one draw of torch's generator serves eight numbers, a byte each; the probability is
    rounded to 1/256 there, and the scale is that of the rounded one. Elsewhere it is torch's own.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @override
    def forward(self, numbers: Tensor) -> Tensor:
        """``numbers`` float32 of any shape; the same shape."""
        if not self.training or self.probability == 0:
            return numbers
        if numbers.device.type != "cpu":
            return dropout(numbers, self.probability)
        dropped = min(round(self.probability * _LEVELS), _LEVELS - 1)
        draws = torch.empty(-(-numbers.numel() // 8), dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        levels = draws.view(torch.uint8)[: numbers.numel()].view(numbers.shape)
        scale = (levels >= dropped).to(numbers.dtype).mul_(_LEVELS / (_LEVELS - dropped))
        return numbers * scale

    @override
    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"
