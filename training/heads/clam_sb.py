"""CLAM with a single attention branch (M. Lu et al., "Data-efficient and weakly supervised
computational pathology on whole-slide images", Nature Biomedical Engineering 5, 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from pathgene_rt.model_spec import STRICT
from pathgene_rt.training.heads.attention import AttentionScores, pool
from pathgene_rt.training.heads.base import BagLoss, Head, HeadOutput

_EMBEDDING = 512
_ATTENTION_HIDDEN = {"small": 256, "big": 384}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClamSBOptions:
    """``size`` is the width inside the attention: small 256, big 384. ``adapter`` is the width of a
    layer in front of the embedding, 0 for none (PathGene: 1024).

    Training: ``k_sample`` most and least attended tiles are taken as instances of the class and of
    its opposite; with ``subtyping`` the most attended tiles also count against the other classes.
    ``bag_weight`` is the share of the bag's loss, the rest is the instances'.
    """

    size: Literal["small", "big"] = "small"
    gated: bool = True
    dropout: float = Field(default=0.25, ge=0, lt=1)
    adapter: int = Field(default=0, ge=0, le=8192)
    k_sample: int = Field(default=8, ge=1, le=4096)
    subtyping: bool = False
    bag_weight: float = Field(default=0.7, gt=0, le=1)


class ClamSB(Head):
    """Gated attention over embedded tiles, and instance classifiers that only training uses."""

    architecture = "clam_sb"
    Options = ClamSBOptions

    def __init__(self, in_dim: int, n_classes: int, options: ClamSBOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.k_sample = options.k_sample
        self.subtyping = options.subtyping
        self.bag_weight = options.bag_weight
        self.adapter = nn.Linear(in_dim, options.adapter) if options.adapter else None
        self.embedding = nn.Linear(options.adapter or in_dim, _EMBEDDING)
        self.dropout = nn.Dropout(options.dropout)
        self.attention = AttentionScores(
            _EMBEDDING,
            _ATTENTION_HIDDEN[options.size],
            gated=options.gated,
            dropout=options.dropout,
        )
        self.classifier = nn.Linear(_EMBEDDING, n_classes)
        self.instance_classifiers = nn.ModuleList(
            nn.Linear(_EMBEDDING, 2) for _ in range(n_classes)
        )

    @override
    def score(self, features: Tensor, coords: Tensor | None, edges: Tensor | None) -> HeadOutput:
        return self._pool(self.embed(features))

    @override
    def objective(
        self,
        features: Tensor,
        label: Tensor,
        bag_loss: BagLoss,
        coords: Tensor | None = None,
        edges: Tensor | None = None,
        privileged: Tensor | None = None,
    ) -> Tensor:
        self._check(features)
        embeddings = self.embed(features)
        logits, attention = self._pool(embeddings)
        assert attention is not None
        instances = self.instance_loss(embeddings, attention[:, 0], int(label))
        return self.bag_weight * bag_loss(logits, label) + (1 - self.bag_weight) * instances

    def instance_loss(self, embeddings: Tensor, attention: Tensor, label: int) -> Tensor:
        """Cross entropy of the instance classifiers on the tiles that attention picks: a scalar.

        ``embeddings`` float32 [n, 512], ``attention`` float32 [n] (or scores: only their order
        counts). Of a bag with fewer than 2 * k_sample tiles half are taken, so that no tile is
        evidence for and against; a bag of one tile has no instances and its loss is 0.
        """
        count = min(self.k_sample, len(attention) // 2)
        if count == 0:
            return embeddings.new_zeros(())
        top = embeddings[attention.topk(count).indices]
        bottom = embeddings[attention.topk(count, largest=False).indices]
        targets = torch.arange(2, device=embeddings.device).flip(0).repeat_interleave(count)
        own = self.instance_classifiers[label](torch.cat([top, bottom]))
        loss = cross_entropy(own, targets)
        if not self.subtyping:
            return loss
        absent = targets.new_zeros(count)
        for number, classifier in enumerate(self.instance_classifiers):
            if number != label:
                loss = loss + cross_entropy(classifier(top), absent)
        return loss / self.n_classes

    def embed(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> embeddings float32 [n, 512], which attention pools."""
        adapted = features if self.adapter is None else self.adapter(features).relu()
        embeddings: Tensor = self.dropout(self.embedding(adapted).relu())
        return embeddings

    def _pool(self, embeddings: Tensor) -> HeadOutput:
        attention, bags = pool(self.attention(embeddings), embeddings)
        return HeadOutput(self.classifier(bags)[0], attention)
