"""MHIM-MIL: masked hard instance mining (W. Tang et al., ICCV 2023; version 2: "Multiple Instance
Learning Framework with Masked Hard Instance Mining for Gigapixel Histopathology Image Analysis",
IJCV 2025).

A teacher, the moving average of the student, scores the tiles of a bag; the highest are hidden from
the student, who learns the class from what is harder to judge and to agree with the teacher's bag
vector. Version 2, the default, merges some of the rest by learned queries. Only the student is kept
at inference: nothing is hidden, and merged only with ``merge_test``.

The defaults are those of the repository's recipe for version 2, from the middle of its grid search
(``mask_high`` 0.01 to 0.05, ``merge_keep`` 0.8 or 0.9, ``merge_tokens`` 1 to 10); its teacher
starts as the plain network trained on the same bags. Version 1 is ``activation="relu",
merge_tokens=0, by_class=False, average_streams=False`` with shares to hide that it chose by data
set (Camelyon16 with attention pooling: ``mask_random=0.5, mask_high=0.01, mask_high_share=0.5,
mask_high_decays=True, consistency=0.1``).

What differs from the original's training: schedules move once an epoch, not once a step; the tiles
that are left keep their order, where merging shuffled them under the transformer's positional
convolutions; a bag is never hidden entirely; version 1 started the student's projection from the
teacher's too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.base import BagLoss, DetailedOutput, Head
from pathgene_rt.training.heads.dropout import BagDropout
from pathgene_rt.training.heads.mhim_bases import (
    ACTIVATIONS,
    Activation,
    AttentionBase,
    Base,
    DSMILBase,
    TransformerBase,
)
from pathgene_rt.training.heads.mhim_masking import Masking
from pathgene_rt.training.heads.mhim_merge import Merge
from pathgene_rt.training.heads.nystrom import WIDTH


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MHIMOptions:
    """``base`` is the network that is trained: "attn" (ABMIL), "selfattn" (TransMIL), "dsmil".
    ``activation`` follows the projection, ``attention_activation`` is inside the attention of
    "attn"; ``average_streams`` makes the logits of "dsmil" the mean of both streams.

    ``merge_tokens`` queries (0: no merging) sum up what is left of a bag beside the share
    ``merge_keep``; they follow at ``merge_momentum``. With ``merge_test`` what they sum up of the
    whole bag is appended to it at inference.

    Training: shares ``mask_*`` of a bag are hidden: the highest scores (the share
    ``mask_high_share``, drawn at random, of so many more; ``mask_high_decays``: by a cosine to
    none), the lowest, and any at random. ``by_class`` scores tiles by
    their evidence for a class instead of their attention. ``consistency`` weighs agreement with the
    teacher, whose bag vector is divided by ``temperature``. The teacher follows at ``momentum``
    (``momentum_rises``: by a cosine to 1) and starts as a "baseline" trained first or as the
    "student". ``pure`` trains that baseline: no teacher, nothing hidden or merged.
    """

    base: Literal["attn", "selfattn", "dsmil"] = "attn"
    activation: Literal["relu", "gelu"] = "gelu"
    attention_activation: Activation = "relu"
    average_streams: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)
    merge_tokens: int = Field(default=5, ge=0, le=256)
    merge_keep: float = Field(default=0.9, ge=0, lt=1)
    merge_momentum: float = Field(default=0.9999, ge=0, le=1)
    merge_test: bool = False
    mask_high: float = Field(default=0.03, ge=0, lt=1)
    mask_high_share: float = Field(default=1.0, gt=0, le=1)
    mask_high_decays: bool = False
    mask_low: float = Field(default=0.0, ge=0, lt=1)
    mask_random: float = Field(default=0.0, ge=0, lt=1)
    by_class: bool = True
    consistency: float = Field(default=0.5, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9997, ge=0, le=1)
    momentum_rises: bool = False
    teacher: Literal["baseline", "student"] = "baseline"
    pure: bool = False


class MHIM(Head):
    """The student, and while it is trained the teacher, which no state dict holds.

    ``attention`` is the base's: [n, 1] of "attn", [n, classes] of "dsmil", TransMIL's attribution
    [n, 1] of "selfattn". With ``merge_test`` it is normalised over the tiles without the merged
    tokens.
    """

    architecture = "mhim"
    Options = MHIMOptions

    def __init__(self, in_dim: int, n_classes: int, options: MHIMOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.chosen = options
        self.projection = nn.Linear(in_dim, WIDTH)
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = BagDropout(options.dropout)
        self.merge: Merge | None = None
        if options.merge_tokens and not options.pure:
            self.merge = Merge(
                WIDTH,
                options.merge_tokens,
                keep=options.merge_keep,
                momentum=options.merge_momentum,
            )
        self.base = _base(n_classes, options)
        self._done = 0.0
        # In a list, so that it is no part of this module: no weights to train, save or load.
        self._teachers: list[MHIM] = []

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> DetailedOutput:
        n = features.shape[0]
        output = self.base(self.tokens(features))
        attention, instance_logits = output.attention, output.instance_logits
        if self.chosen.merge_test:
            attention = attention[:n]
            attention = attention + (attention.sum(0) == 0)
            attention = attention / attention.sum(0)
            instance_logits = None if instance_logits is None else instance_logits[:n]
        return DetailedOutput(output.logits, attention, instance_logits=instance_logits)

    def tokens(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> what the base network sees at inference, float32 [m, 512]: the
        tiles, and with ``merge_test`` the merged tokens after them."""
        tokens = self._embed(features)
        if self.merge is not None and self.chosen.merge_test:
            tokens = torch.cat([tokens, self.merge(tokens)])
        return tokens

    @override
    def objective(
        self,
        features: Tensor,
        label: Tensor,
        bag_loss: BagLoss,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
        privileged: Tensor | None = None,
    ) -> Tensor:
        """The loss of the student's logits and ``consistency`` times the cross entropy between the
        bag vectors of teacher and student, taken as distributions over their entries."""
        self._check(features)
        if self.chosen.pure:
            return bag_loss(self.base(self._embed(features)).logits, label)
        teacher = self._teacher().to(features.device).train(self.training)
        with torch.no_grad():
            seen = teacher._embed(features)
            taught, scores = teacher.base.teach(seen, by_class=self.chosen.by_class)
        tokens = self._embed(features)[self._masking().kept(scores)]
        if self.merge is not None:
            tokens = self.merge.reduced(tokens)
        output = self.base(tokens)
        target = (taught / self.chosen.temperature).softmax(dim=-1)
        disagreement = -(target * output.bags.log_softmax(dim=-1)).sum(dim=-1).mean()
        loss: Tensor = bag_loss(output.logits, label) + self.chosen.consistency * disagreement
        return loss

    @override
    def prerequisite(self) -> Head | None:
        if self.chosen.pure or self.chosen.teacher == "student":
            return None
        return MHIM(self.in_dim, self.n_classes, replace(self.chosen, pure=True, merge_test=False))

    @override
    def adopt(self, base: Head, bags: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """The teacher starts with the weights of ``base``; the student keeps its own."""
        self._teachers = []
        self._teacher().load_state_dict({**self.state_dict(), **base.state_dict()})

    @override
    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self._done = epoch / epochs

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        """The teacher moves towards the student."""
        if not self._teachers:
            return
        rest = 1 - self.chosen.momentum
        if self.chosen.momentum_rises:
            rest *= _cosine(self._done)
        student = self.state_dict()
        for name, tensor in self._teacher().state_dict().items():
            tensor.lerp_(student[name].to(tensor.device), rest)

    def _embed(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.dropout(self.activation(self.projection(features)))
        return embeddings

    def _masking(self) -> Masking:
        high = self.chosen.mask_high
        if self.chosen.mask_high_decays:
            high *= _cosine(self._done)
        return Masking(
            high=high,
            high_share=self.chosen.mask_high_share,
            low=self.chosen.mask_low,
            random=self.chosen.mask_random,
        )

    def _teacher(self) -> MHIM:
        if not self._teachers:
            self._teachers = [copy.deepcopy(self).requires_grad_(False)]
        return self._teachers[0]


def _base(n_classes: int, options: MHIMOptions) -> Base:
    if options.base == "attn":
        return AttentionBase(n_classes, options.attention_activation)
    if options.base == "selfattn":
        return TransformerBase(n_classes)
    return DSMILBase(n_classes, average=options.average_streams)


def _cosine(done: float) -> float:
    """From 1 to 0 over a training of which ``done`` is behind."""
    return (1 + math.cos(math.pi * done)) / 2
