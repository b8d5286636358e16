"""Graph convolution with softmax aggregation (G. Li, C. Xiong, A. Thabet, B. Ghanem, "DeeperGCN:
All You Need to Train Deeper GCNs", 2020), equal to GENConv of torch_geometric.

torch_geometric gathers and scatters one message an edge. Here each node gathers its first eight
incoming messages, all that a tile can have on the grid, and only those beyond are scattered: no
array of [edges, width], and any edges are right. In a graph this takes ``ScatterElements`` with a
reduction, over edge numbers and the few messages left, which TensorRT's parser has (10.1: as a
plugin that comes with it); it lacks ``ScatterND`` with a reduction and sorting of more than 3840.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

_SLOTS = 8
_NO_MESSAGE = -6e4
"""Exponent of an empty slot: next to a message it weighs nothing. FP16 can hold it."""

_EPS = 1e-7


@dataclass(frozen=True)
class Incoming:
    """Where the messages of each of n nodes come from.

    ``slots`` are eight times int64 [n]: the source of a message, or n for none. What comes into a
    node beyond its eighth message is in ``sources`` and ``targets``, int64 [r]; r = 0 on a grid.
    """

    slots: tuple[Tensor, ...]
    sources: Tensor
    targets: Tensor


def incoming(edges: Tensor, n: int) -> Incoming:
    """The ``edges`` int64 [2, e] (source, target) between n nodes, by target.

    Eight times the last edge of each target that has no slot yet takes one.
    """
    sources, targets = edges[0], edges[1]
    numbers = torch.arange(1, targets.shape[0] + 1, device=edges.device)
    source_of = torch.cat([torch.arange(n, n + 1, device=edges.device), sources])
    slots = []
    for _ in range(_SLOTS):
        last = numbers.new_zeros(n).scatter_reduce(0, targets, numbers, "amax")
        slots.append(source_of.index_select(0, last))
        placed = last.index_select(0, targets) == numbers
        numbers = torch.where(placed, 0, numbers)
    left = numbers.nonzero()[:, 0]
    return Incoming(tuple(slots), sources.index_select(0, left), targets.index_select(0, left))


class GENConv(nn.Module):
    """Nodes float32 [n, width] -> [n, width].

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
    def forward(self, nodes: Tensor, graph: Incoming) -> Tensor:
        hidden = self.widen(nodes + self._aggregate(nodes.relu() + _EPS, graph))
        out: Tensor = self.narrow(self.norm(hidden).relu())
        return out

    def _aggregate(self, messages: Tensor, graph: Incoming) -> Tensor:
        """Messages [n, width] -> their means at the targets; 0 where none comes in."""
        exponents = pad(self.t * messages, (0, 0, 0, 1), value=_NO_MESSAGE)
        messages = pad(messages, (0, 0, 0, 1))
        left = graph.targets.unsqueeze(1).expand(-1, messages.shape[1])

        # Shifting exponents by the largest of their node cancels, so it has no gradient.
        fixed = exponents.detach()
        top = fixed.index_select(0, graph.slots[0])
        for slot in graph.slots[1:]:
            top = torch.maximum(top, fixed.index_select(0, slot))
        top = top.scatter_reduce(0, left, fixed.index_select(0, graph.sources), "amax")

        weight = exponents.index_select(0, graph.sources) - top.index_select(0, graph.targets)
        weight = weight.exp()
        weighted = weight * messages.index_select(0, graph.sources)
        total = torch.zeros_like(top).scatter_add(0, left, weight)
        mixed = torch.zeros_like(top).scatter_add(0, left, weighted)
        for slot in graph.slots:
            weight = (exponents.index_select(0, slot) - top).exp()
            total = total + weight
            mixed = mixed + weight * messages.index_select(0, slot)
        return mixed / total
