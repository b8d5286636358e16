"""The networks that MHIM-MIL trains: attention pooling, a transformer, DSMIL. Teacher and student
are one of them each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from typing_extensions import override

from pathgene_rt.training.heads.attention import pool
from pathgene_rt.training.heads.dsmil import DualStream
from pathgene_rt.training.heads.nystrom import WIDTH, NystromLayer
from pathgene_rt.training.heads.transmil import PositionalConvolutions, attribution, square_grid

Activation = Literal["relu", "gelu", "tanh"]
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
_ATTENTION_HIDDEN = 128
_SMALLEST_SIDE = 7
_LAYER_DROPOUT = 0.1


class BaseOutput(NamedTuple):
    """``logits`` float32 [classes]; ``attention`` [m, k], summing to one over the tokens; ``bags``
    [b, 512], what student and teacher are to agree on; ``instance_logits`` [m, classes] or None."""

    logits: Tensor
    attention: Tensor
    bags: Tensor
    instance_logits: Tensor | None = None


class Base(nn.Module, ABC):
    """Tokens float32 [m, 512], m >= 1 -> :class:`BaseOutput`."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> BaseOutput: ...

    @abstractmethod
    def teach(self, tokens: Tensor, *, by_class: bool) -> tuple[Tensor, Tensor]:
        """The bag vectors of :meth:`forward`, and how salient the tokens are, scores [heads, m]:
        their attention, or with ``by_class`` the evidence for a class that they give."""


class AttentionBase(Base):
    """ABMIL whose attention has no biases."""

    def __init__(self, n_classes: int, activation: Activation) -> None:
        super().__init__()
        self.attention_hidden = nn.Linear(WIDTH, _ATTENTION_HIDDEN, bias=False)
        self.attention_activation = ACTIVATIONS[activation]()
        self.attention_score = nn.Linear(_ATTENTION_HIDDEN, 1, bias=False)
        self.classifier = nn.Linear(WIDTH, n_classes)

    @override
    def forward(self, tokens: Tensor) -> BaseOutput:
        hidden = self.attention_activation(self.attention_hidden(tokens))
        attention, bags = pool(self.attention_score(hidden), tokens)
        return BaseOutput(self.classifier(bags)[0], attention, bags)

    @override
    def teach(self, tokens: Tensor, *, by_class: bool) -> tuple[Tensor, Tensor]:
        output = self(tokens)
        if by_class:
            return output.bags, _class_evidence(output.attention * tokens, self.classifier)
        return output.bags, output.attention.T


class TransformerBase(Base):
    """TransMIL whose copies of tiles are in the positional convolutions only, as are zeros that
    fill grids below 7 x 7, laid out 7 wide then. ``attention`` is TransMIL's attribution."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layer1 = NystromLayer(_LAYER_DROPOUT)
        self.position = PositionalConvolutions()
        self.layer2 = NystromLayer(_LAYER_DROPOUT)
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, n_classes)

    @override
    def forward(self, tokens: Tensor) -> BaseOutput:
        bag, weights = self._second(self.layer1(self._sequence(tokens)))
        attention = attribution(weights, tokens.shape[0])
        return BaseOutput(self.classifier(bag), attention, bag[None])

    @override
    def teach(self, tokens: Tensor, *, by_class: bool) -> tuple[Tensor, Tensor]:
        sequence = self._sequence(tokens)
        bag, _ = self._second(self.layer1(sequence))
        _, weights = self.layer1.first_token(sequence)
        scores = weights[:, 1:]
        if by_class:
            attended = self.layer1.attended_values(sequence, weights)[1:]
            scores = _class_evidence(attended, self.classifier)
        return bag[None], scores

    def layer_attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's attention to the tokens in both layers, float32 [8, m] each."""
        sequence = self._sequence(tokens)
        _, first = self.layer1.first_token(sequence)
        _, second = self._second(self.layer1(sequence))
        return first[:, 1:], second

    def _sequence(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.class_token[0], tokens])

    def _second(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer returns [1 + m, 512] -> bag vector [512], attention [8, m]."""
        sequence = torch.cat([sequence[:1], self._positioned(sequence[1:])])
        token, weights = self.layer2.first_token(sequence)
        return self.norm(token), weights[:, 1:]

    def _positioned(self, tokens: Tensor) -> Tensor:
        m = tokens.shape[0]
        rows, columns = square_grid(m)
        grid = _at_least(rows, _SMALLEST_SIDE), _at_least(columns, _SMALLEST_SIDE)
        copies = tokens.narrow(0, 0, rows * columns - m)
        square = pad(torch.cat([tokens, copies]), (0, 0, 0, grid[0] * grid[1] - rows * columns))
        positioned: Tensor = self.position(square, grid)
        return positioned.narrow(0, 0, m)


class DSMILBase(Base):
    """DSMIL with values that are a layer of the tokens; ``average``: the logits are the mean of the
    bag's and the highest of the instances', else the bag's."""

    def __init__(self, n_classes: int, *, average: bool) -> None:
        super().__init__()
        self.average = average
        self.streams = DualStream(WIDTH, n_classes, nonlinear=True, passing_v=True)
        self.classifier = nn.Conv1d(n_classes, n_classes, kernel_size=WIDTH)

    @override
    def forward(self, tokens: Tensor) -> BaseOutput:
        instance_logits, attention, bags = self.streams(tokens)
        logits = self.bag_logits(bags)
        if self.average:
            logits = (logits + instance_logits.amax(dim=0)) / 2
        return BaseOutput(logits, attention, bags, instance_logits)

    @override
    def teach(self, tokens: Tensor, *, by_class: bool) -> tuple[Tensor, Tensor]:
        instance_logits, attention, bags = self.streams(tokens)
        scores = instance_logits if by_class else attention
        return bags, scores.amax(dim=1)[None]

    def bag_logits(self, bags: Tensor) -> Tensor:
        """Bag vectors [classes, 512] -> [classes]."""
        weight = self.classifier.weight.flatten(1)
        return linear(bags.reshape(1, -1), weight, self.classifier.bias)[0]


def _at_least(size: int, least: int) -> int:
    """max(), which an exported graph computes too."""
    return cast(int, torch.sym_max(size, least))  # type: ignore[no-untyped-call]


def _class_evidence(weighted: Tensor, classifier: nn.Linear) -> Tensor:
    """Attention-weighted tokens [m, 512] -> [1, m], the probability of the likeliest class if the
    bag were that token alone; of a single class its logit, whose order is the same.

    The classifier's bias is left out, as the original adds that of one class to all of them.
    """
    evidence = linear(weighted, classifier.weight)
    if evidence.shape[1] > 1:
        evidence = evidence.softmax(dim=1)
    return evidence.amax(dim=1)[None]
