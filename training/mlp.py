"""The MLP of transformer blocks, for encoders and heads alike."""

from __future__ import annotations

from torch import Tensor, nn


class Mlp(nn.Module):
    """Two layers with an exact GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out
