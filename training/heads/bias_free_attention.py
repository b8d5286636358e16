"""The attention that pools in DearCaat's RRT-MIL and MHIM-MIL (``modules/datten.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import gelu
from typing_extensions import override

_HIDDEN = 128

Activation = Literal["relu", "gelu", "tanh"]
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": Tensor.relu,
    "gelu": gelu,
    "tanh": Tensor.tanh,
}


class BiasFreeScores(nn.Module):
    """Embeddings float32 [n, width] -> raw scores float32 [n, 1].

    ABMIL's with any ``activation`` in the place of the tanh, 128 wide, and without biases.
    """

    def __init__(self, width: int, *, activation: Activation, gated: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, _HIDDEN, bias=False)
        self.gate = nn.Linear(width, _HIDDEN, bias=False) if gated else None
        self.score = nn.Linear(_HIDDEN, 1, bias=False)
        self.activation = _ACTIVATIONS[activation]

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        hidden = self.activation(self.hidden(embeddings))
        if self.gate is not None:
            hidden = hidden * self.gate(embeddings).sigmoid()
        scores: Tensor = self.score(hidden)
        return scores
