"""HMIL (C. Jin et al., "HMIL: Hierarchical Multi-Instance Learning for Fine-Grained Whole Slide
Image Classification", IEEE Transactions on Medical Imaging 2025).

Training minimises, as the paper does, alpha * coarse + fine + alignment + (1 - alpha) * contrast,
where alpha falls from 1 to 0 over the epochs. What differs, and why:

- Alignment of bags is the negative logarithm of the probability that the fine classes of the right
  coarse class have together. The published code takes probabilities for logits there.
- Alignment of instances compares the coarse attention with the mean of the fine attentions of each
  coarse class, which like it sums to one over the tiles, instead of their sum. The published
  trainer computes its term and leaves it out of the sum; here ``alignment_weight`` acts on both.
- A step is one bag here, not 64: contrast is with the embeddings of the last ``memory`` bags,
  without gradient. The vectors of a bag's fine classes are one embedding together. The published
  code makes each a view of its own, which pulls the classes of one bag together, and divides by
  the number of bags; here ``contrast_weight`` acts on the mean over positives.
"""

from __future__ import annotations

from collections import deque
from math import cos, pi

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.errors import UsageError
from pathgene_rt.training.heads.attention import AttentionScores, pool
from pathgene_rt.training.heads.base import BagLoss, DetailedOutput, Head

_REDUCED = 256
_COARSE_HIDDEN = 256
_FINE_HIDDEN = 64
_COLDEST, _HOTTEST = 0.1, 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HMILOptions:
    """``coarse_of`` is the coarse class of each fine class, in their order; by default the first
    fine class is coarse class 0 (wild type) and all others are 1 (mutated). ``dropout`` acts inside
    the attentions.

    Training: ``memory`` is the number of bags that contrast is with, and ``contrast_weight`` and
    ``alignment_weight`` are the weights of those losses.
    """

    coarse_classes: int = Field(default=2, ge=1, le=1024)
    coarse_of: tuple[int, ...] | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    memory: int = Field(default=64, ge=1, le=4096)
    contrast_weight: float = Field(default=1.0, ge=0)
    alignment_weight: float = Field(default=1.0, ge=0)


class HMIL(Head):
    """Gated attention for each coarse class on adapted features, and for each fine class on a
    reduction of them; a level's classes share one linear classifier of the vectors they pool.

    ``logits`` and ``attention`` [n, fine classes] are of the fine level; ``coarse_logits`` come
    with them. The published code fails on bags of one tile, this one does not.
    """

    architecture = "hmil"
    Options = HMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: HMILOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.coarse_of = _coarse_of(n_classes, options)
        self.contrast_weight = options.contrast_weight
        self.alignment_weight = options.alignment_weight
        self.extractor = nn.Sequential(
            nn.Linear(in_dim, _REDUCED), nn.ReLU(), nn.Linear(_REDUCED, in_dim)
        )
        self.reducer = nn.Linear(in_dim, _REDUCED)
        self.coarse_attention = AttentionScores(
            in_dim,
            _COARSE_HIDDEN,
            gated=True,
            dropout=options.dropout,
            columns=options.coarse_classes,
        )
        self.fine_attention = AttentionScores(
            _REDUCED, _FINE_HIDDEN, gated=True, dropout=options.dropout, columns=n_classes
        )
        self.coarse_classifier = nn.Linear(in_dim, 1)
        self.fine_classifier = nn.Linear(_REDUCED, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self._alpha = 1.0
        self._temperature = _HOTTEST
        self._past: deque[tuple[Tensor, int]] = deque(maxlen=options.memory)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> DetailedOutput:
        (coarse, _, _), (fine, attention, _) = self.levels(features)
        return DetailedOutput(fine, attention, coarse_logits=coarse)

    def levels(self, features: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Of the coarse and of the fine level: logits [classes], attention [n, classes] and the bag
        vectors [classes, width] (coarse in_dim, fine 256)."""
        adapted = self.extractor(features)
        reduced = self.reducer(adapted)
        coarse_attention, coarse_bags = pool(self.coarse_attention(adapted), adapted)
        fine_attention, fine_bags = pool(self.fine_attention(reduced), reduced)
        return (
            (self.coarse_classifier(coarse_bags)[:, 0], coarse_attention, coarse_bags),
            (self.fine_classifier(fine_bags)[:, 0], fine_attention, fine_bags),
        )

    @override
    def begin_epoch(self, epoch: int, epochs: int) -> None:
        if epoch == 0:
            self._past.clear()
        self._alpha = 1 - (epoch / epochs) ** 2
        swing = (1 + cos(2 * pi * epoch / epochs)) / 2
        self._temperature = _COLDEST + (_HOTTEST - _COLDEST) * swing

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
        self._check(features)
        if label.is_floating_point():
            raise UsageError(
                "hmil learns one class a slide from a hierarchy of classes; train tasks where a "
                "slide may have several with another head"
            )
        if self.coarse_of is None:
            raise UsageError(
                "hmil with more than two coarse classes is trained with the option coarse_of, the "
                "coarse class of each fine class"
            )
        (coarse, coarse_attention, _), (fine, fine_attention, bags) = self.levels(features)
        members = nn.functional.one_hot(
            torch.tensor(self.coarse_of, device=fine.device), len(coarse)
        ).to(fine.dtype)
        coarse_label = members[label].argmax()
        together = (fine.log_softmax(0)[:, None] + members.log()).logsumexp(0)
        means = fine_attention @ (members / members.sum(0).clamp(min=1))
        apart = 1 - cosine_similarity(coarse_attention, means, dim=1).mean()
        return (
            self._alpha * cross_entropy(coarse, coarse_label)
            + bag_loss(fine, label)
            + self.alignment_weight * (apart - together[coarse_label])
            + (1 - self._alpha) * self.contrast_weight * self._contrast(bags, int(label))
        )

    def _contrast(self, bags: Tensor, label: int) -> Tensor:
        """Supervised contrast (P. Khosla et al., NeurIPS 2020) of this bag with those before it;
        0 until one of them is of its class."""
        embedding = normalize(bags.flatten(), dim=0)
        past = list(self._past)
        self._past.append((embedding.detach(), label))
        positive = [place for place, (_, other) in enumerate(past) if other == label]
        if not positive:
            return embedding.new_zeros(())
        similarity = torch.stack([other for other, _ in past]) @ embedding / self._temperature
        return -similarity.log_softmax(0)[positive].mean()


def _coarse_of(n_classes: int, options: HMILOptions) -> tuple[int, ...] | None:
    """The coarse class of each fine class, None where nothing tells it."""
    coarse = options.coarse_classes
    if options.coarse_of is None:
        return tuple(min(fine, coarse - 1) for fine in range(n_classes)) if coarse <= 2 else None
    if len(options.coarse_of) != n_classes or set(options.coarse_of) != set(range(coarse)):
        raise UsageError(
            f"hmil: option coarse_of = {options.coarse_of} does not fit: give each of {n_classes} "
            f"fine classes one of the coarse classes 0 to {coarse - 1} (option coarse_classes), "
            "and use all of them"
        )
    return options.coarse_of
