"""Graph convolution with softmax aggregation (G. Li, C. Xiong, A. Thabet, B. Ghanem, "DeeperGCN:
All You Need to Train Deeper GCNs", 2020), equal to GENConv of torch_geometric.

torch_geometric gathers and scatters one message an edge. Here each node has a table of where its
messages come from, and gathers column by column: no array of [edges, width], and nothing is
scattered, for which TensorRT's parsers lack the sums.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

_NO_MESSAGE = -6e4
"""Exponent of an empty place: next to a message it weighs nothing. FP16 can hold it."""

_EPS = 1e-7


class GENConv(nn.Module):
    """Nodes float32 [n, width] and ``sources`` int64 [n, k], the nodes that each takes messages
    from, n where there is none -> nodes float32 [n, width].

    A node sends the message ReLU(x) + 1e-7. Of the messages into a node each channel is averaged
    with the weights softmax(t * message), t learnt; the node itself is added and two layers with a
    LayerNorm between them follow. ``bias`` says whether the two have biases, as they had up to
    torch_geometric 2.1.
    """

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.ones(1))
        self.widen = nn.Linear(width, 2 * width, bias=bias)
        self.norm = nn.LayerNorm(2 * width)
        self.narrow = nn.Linear(2 * width, width, bias=bias)

    @override
    def forward(self, nodes: Tensor, sources: Tensor) -> Tensor:
        hidden = self.widen(nodes + self.aggregate(nodes.relu() + _EPS, sources))
        out: Tensor = self.narrow(self.norm(hidden).relu())
        return out

    def aggregate(self, messages: Tensor, sources: Tensor) -> Tensor:
        """Messages float32 [n, width] -> the means of those that come in; 0 where none does."""
        slots = sources.unbind(1)
        exponents = pad(self.t * messages, (0, 0, 0, 1), value=_NO_MESSAGE)
        messages = pad(messages, (0, 0, 0, 1))

        # Shifting exponents by the largest of their node cancels, so it has no gradient.
        fixed = exponents.detach()
        top = fixed.index_select(0, slots[0])
        for slot in slots[1:]:
            top = torch.maximum(top, fixed.index_select(0, slot))

        total, mixed = torch.zeros_like(top), torch.zeros_like(top)
        for slot in slots:
            weight = (exponents.index_select(0, slot) - top).exp()
            total = total + weight
            mixed = mixed + weight * messages.index_select(0, slot)
        return mixed / total
