"""What CLAM's heads share: embedding, attention branches and the clustering of instances (M. Lu et
al., "Data-efficient and weakly supervised computational pathology on whole-slide images", Nature
Biomedical Engineering 5, 2021).

PathGene's copy is ``adapter=1024`` for features of another width than 1024, with ``dropout=0`` or
0.25, and is scored by a sigmoid. Of a bag with fewer than ``2 * k_sample`` tiles half count for and
half against the class, where the original fails below ``k_sample`` and overlaps below twice that.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import AttentionHead, AttentionScores, pool
from pathgene_rt.training.heads.base import BagLoss
from pathgene_rt.training.heads.dropout import BagDropout

EMBEDDING = 512
_ATTENTION_HIDDEN = {"small": 256, "big": 384}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClamOptions:
    """``size`` is the width inside the attention: small 256, big 384. ``adapter`` is the width of a
    layer in front of the embedding, 0 for none (PathGene: 1024).

    Training: ``k_sample`` most and least attended tiles are taken as instances of the class and of
    its opposite; with ``subtyping`` (classes exclude each other) the most attended tiles also count
    against the classes that the slide lacks. ``margin`` is that of the instances' loss: 1 is the
    paper's smooth top-1 SVM, 0 cross entropy. ``bag_weight`` is the share of the bag's loss, the
    rest is the instances'.
    """

    size: Literal["small", "big"] = "small"
    gated: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)
    adapter: int = Field(default=0, ge=0, le=8192)
    k_sample: int = Field(default=8, ge=1, le=4096)
    subtyping: bool = False
    margin: float = Field(default=1.0, ge=0, le=100)
    bag_weight: float = Field(default=0.7, gt=0, le=1)


class Clam(AttentionHead):
    """Attention over embedded tiles in one or more branches, and for each class an instance
    classifier (2 outputs: not of the class, of the class) that only training uses.

    A subclass classifies the bag vectors [..., branches, 512] of its branches.
    """

    Options = ClamOptions

    def __init__(self, in_dim: int, n_classes: int, options: ClamOptions, *, branches: int) -> None:
        super().__init__(in_dim, n_classes, options)
        self.k_sample = options.k_sample
        self.subtyping = options.subtyping
        self.margin = options.margin
        self.bag_weight = options.bag_weight
        self.adapter = nn.Linear(in_dim, options.adapter) if options.adapter else None
        self.embedding = nn.Linear(options.adapter or in_dim, EMBEDDING)
        self.dropout = BagDropout(options.dropout)
        self.attention = AttentionScores(
            EMBEDDING,
            _ATTENTION_HIDDEN[options.size],
            gated=options.gated,
            dropout=options.dropout,
            columns=branches,
        )
        self.instance_classifiers = nn.ModuleList(nn.Linear(EMBEDDING, 2) for _ in range(n_classes))

    def embed(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> embeddings float32 [n, 512], which attention pools."""
        adapted = features if self.adapter is None else self.adapter(features).relu()
        embeddings: Tensor = self.dropout(self.embedding(adapted).relu())
        return embeddings

    @override
    def instances(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.embed(features)
        return self.attention(embeddings), embeddings

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
        scores, embeddings = self.instances(features)
        attention, bags = pool(scores, embeddings)
        instances = self.instance_loss(embeddings, attention, label)
        bag = bag_loss(self.classify(bags), label)
        return self.bag_weight * bag + (1 - self.bag_weight) * instances

    def instance_loss(self, embeddings: Tensor, attention: Tensor, label: Tensor) -> Tensor:
        """The loss of the instance classifiers on the tiles that attention picks: a scalar.

        ``embeddings`` float32 [n, 512], ``attention`` float32 [n, branches] (or scores: only their
        order counts); ``label`` as :data:`BagLoss` takes it. Summed over the classes that the slide
        has; with ``subtyping`` over all, divided by their number. A bag of one tile has no
        instances and its loss is 0.
        """
        count = min(self.k_sample, len(attention) // 2)
        loss = embeddings.new_zeros(())
        if count == 0:
            return loss
        has = label if label.is_floating_point() else one_hot(label, self.n_classes)
        branches = attention.T.expand(self.n_classes, -1)
        for classifier, branch, present in zip(
            self.instance_classifiers, branches, has.tolist(), strict=True
        ):
            top = branch.topk(count).indices
            if present:
                bottom = branch.topk(count, largest=False).indices
                scores = classifier(embeddings[torch.cat([top, bottom])])
                loss = loss + self._loss(scores[:count], 1) / 2 + self._loss(scores[count:], 0) / 2
            elif self.subtyping:
                loss = loss + self._loss(classifier(embeddings[top]), 0)
        return loss / self.n_classes if self.subtyping else loss

    def _loss(self, scores: Tensor, target: int) -> Tensor:
        """Smooth top-1 SVM at temperature 1 (L. Berrada et al., ICLR 2018): cross entropy with a
        margin on the wrong class. ``scores`` float32 [k, 2], ``target`` the class of all."""
        margin = scores.new_full((2,), self.margin)
        margin[target] = 0
        targets = torch.full((len(scores),), target, device=scores.device)
        return cross_entropy(scores + margin, targets)
