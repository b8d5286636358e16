"""DTFD-MIL: a bag is split into pseudo-bags, the first tier distils features from each, the second
classifies those (H. Zhang et al., "DTFD-MIL: Double-Tier Feature Distillation Multiple Instance
Learning for Histopathology Whole Slide Image Classification", CVPR 2022).

The original draws the pseudo-bags anew each time, also when it evaluates. Here tile i belongs to
pseudo-bag ``i mod groups`` unless a permutation says otherwise: a fixed order, in which every
pseudo-bag has tiles of the whole slide, since tiles are listed row by row.

Training draws them at random. Each tier learns from its own loss only, as in the original, whose
second optimizer never touches the first tier: the distilled features are detached. Both tiers share
the loop's one optimizer. Pseudo-bags without a tile (n < groups) are left out of the loss, where
the original trains the classifier's bias on them.

PathGene's variant is ``projection=in_dim // 2, distillation="MaxMinS", ranking="sigmoid"``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import AttentionScores
from pathgene_rt.training.heads.base import BagLoss, Head, HeadOutput


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DTFDOptions:
    """``projection`` is the width of the embedded features (mDim), 0 for the features themselves;
    ``hidden`` the width inside both attentions. The projection is followed by
    ``residual_blocks`` of two layers (numLayer_Res). The bag is split into ``groups`` (numGroup).

    ``distillation``: AFS gives the second tier the vector of each pseudo-bag, MaxS the
    ``per_group`` tiles (total_instance // numGroup) that are ranked highest in it, MaxMinS those
    and as many ranked lowest. The rank is the probability of the last class, which ``ranking``
    makes of a tile's class activations.
    """

    projection: int = Field(default=512, ge=0, le=8192)
    residual_blocks: int = Field(default=0, ge=0, le=64)
    hidden: int = Field(default=128, ge=1, le=8192)
    groups: int = Field(default=4, ge=1, le=256)
    distillation: Literal["AFS", "MaxS", "MaxMinS"] = "AFS"
    per_group: int = Field(default=1, ge=1, le=1024)
    ranking: Literal["softmax", "sigmoid"] = "softmax"


class TwoTierOutput(HeadOutput):
    """Logits and attention, and what lies between the tiers. Graphs carry the pair only.

    ``pseudo_bag_logits`` float32 [groups, classes], of an empty pseudo-bag the classifier's bias.
    ``row_attention`` float32 [r, 1] is the second tier's over the distilled rows. ``selected``
    int64 [r] are the tiles that MaxS and MaxMinS distil, pseudo-bag after pseudo-bag, -1 where one
    has fewer; None for AFS, whose rows are the pseudo-bags.
    """

    pseudo_bag_logits: Tensor | None
    row_attention: Tensor | None
    selected: Tensor | None

    def __new__(
        cls,
        logits: Tensor,
        attention: Tensor | None,
        *,
        pseudo_bag_logits: Tensor | None = None,
        row_attention: Tensor | None = None,
        selected: Tensor | None = None,
    ) -> Self:
        output = super().__new__(cls, logits, attention)
        output.pseudo_bag_logits = pseudo_bag_logits
        output.row_attention = row_attention
        output.selected = selected
        return output


class DTFD(Head):
    """Attention in each pseudo-bag, then over what is distilled from all of them.

    A tile's attention is its share in the bag vector of the second tier: for AFS its weight in its
    pseudo-bag times that pseudo-bag's weight, else the weight of the distilled tile itself, so that
    all but ``groups * per_group`` tiles (twice as many for MaxMinS) have none. Weight that the
    second tier of AFS gives to empty pseudo-bags is divided among the tiles.
    """

    architecture = "dtfd"
    Options = DTFDOptions

    def __init__(self, in_dim: int, n_classes: int, options: DTFDOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.groups = options.groups
        self.distillation = options.distillation
        self.per_group = options.per_group
        self.softmax_ranking = options.ranking == "softmax" and n_classes > 1
        width = options.projection or in_dim
        self.projection = nn.Linear(in_dim, width, bias=False) if options.projection else None
        self.residual_blocks = nn.ModuleList(
            _residual_block(width) for _ in range(options.residual_blocks)
        )
        self.pseudo_bag_attention = AttentionScores(width, options.hidden, gated=True)
        self.pseudo_bag_classifier = nn.Linear(width, n_classes)
        self.attention = AttentionScores(width, options.hidden, gated=True)
        self.classifier: nn.Module = nn.Linear(width, n_classes)

    @override
    def forward(
        self,
        features: Tensor,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
        permutation: Tensor | None = None,
    ) -> HeadOutput:
        """``permutation`` int64 [n] is an order of the tiles which is cut into the pseudo-bags, the
        first of them one tile longer where n does not divide, as numpy.array_split does.

        Raises ValueError if it is no permutation, and as :meth:`Head.forward` does.
        """
        if permutation is None:
            return super().forward(features, coords, neighbours, regions)
        self._check(features)
        return self._tiers(features, self._split(permutation, len(features)))

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        order = torch.arange(features.shape[0], device=features.device)
        return self._tiers(features, order % self.groups)

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
        """The mean loss of the pseudo-bags, which have the bag's label, plus the loss of the bag;
        the pseudo-bags are drawn from torch's global generator."""
        self._check(features)
        order = torch.randperm(len(features), device=features.device)
        output = self._tiers(features, order % self.groups)
        assert output.pseudo_bag_logits is not None
        filled = output.pseudo_bag_logits[: len(features)]
        first_tier = torch.stack([bag_loss(logits, label) for logits in filled]).mean()
        return first_tier + bag_loss(output.logits, label)

    def embed(self, features: Tensor) -> Tensor:
        """Features [n, in_dim] -> embeddings float32 [n, width]."""
        embeddings = features if self.projection is None else self.projection(features).relu()
        for block in self.residual_blocks:
            embeddings = embeddings + block(embeddings)
        return embeddings

    def _tiers(self, features: Tensor, group: Tensor) -> TwoTierOutput:
        """Both tiers, ``group`` int64 [n] being the pseudo-bag of each tile."""
        embeddings = self.embed(features)
        members = group[:, None] == torch.arange(self.groups, device=group.device)
        weights = _softmax_within(self.pseudo_bag_attention(embeddings), members)
        vectors = weights.T @ embeddings
        distilled = self._distil(embeddings.detach(), weights.detach(), members)
        rows = distilled.shares.T @ embeddings.detach()
        row_attention = _softmax_within(self.attention(rows), distilled.filled)
        attention = distilled.shares @ row_attention
        return TwoTierOutput(
            self.classifier(row_attention.T @ rows)[0],
            attention / attention.sum(dim=0),
            pseudo_bag_logits=self.pseudo_bag_classifier(vectors),
            row_attention=row_attention,
            selected=distilled.selected,
        )

    def _distil(self, embeddings: Tensor, weights: Tensor, members: Tensor) -> _Distilled:
        if self.distillation == "AFS":
            # A pseudo-bag without a tile is a row of zeros, which the second tier does attend to.
            return _Distilled(weights, torch.ones_like(members[:1].T), None)
        rank = self._rank(embeddings, weights)
        ends = [True] if self.distillation == "MaxS" else [True, False]
        selected = torch.cat([_extreme(rank, members, self.per_group, largest=end) for end in ends])
        selected = selected.T.reshape(-1)
        tiles = torch.arange(embeddings.shape[0], device=selected.device)
        shares = (tiles[:, None] == selected).to(embeddings.dtype)
        return _Distilled(shares, (selected >= 0)[:, None], selected)

    def _rank(self, embeddings: Tensor, weights: Tensor) -> Tensor:
        """[n, 1], in the order of the last class's probability by a tile's class activations: the
        first tier's classifier, without its bias, on the tile times its attention.

        Log-odds in place of the probability, which float32 rounds where it is near one half.
        """
        activations = (embeddings @ self.pseudo_bag_classifier.weight.T) * weights.sum(1, True)
        last = activations[:, -1:]
        if not self.softmax_ranking:
            return last
        return last - activations[:, :-1].logsumexp(dim=1, keepdim=True)

    def _split(self, permutation: Tensor, n: int) -> Tensor:
        everyone = torch.arange(n, device=permutation.device)
        if permutation.shape != (n,) or not torch.equal(permutation.sort().values, everyone):
            raise ValueError(f"the permutation of a bag of {n} tiles holds 0 to {n - 1} once each")
        group = torch.empty_like(everyone)
        for number, part in enumerate(permutation.tensor_split(self.groups)):
            group[part] = number
        return group


class _Distilled(NamedTuple):
    """``shares`` float32 [n, r]: how much of each of r rows is which tile; ``filled`` bool [r, 1]:
    which rows there are; ``selected`` as in :class:`TwoTierOutput`."""

    shares: Tensor
    filled: Tensor
    selected: Tensor | None


def _residual_block(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, width, bias=False),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.ReLU(),
    )


def _softmax_within(scores: Tensor, members: Tensor) -> Tensor:
    """The softmax of ``scores`` [n, 1] over the members of each column of ``members`` bool [n, k]:
    [n, k], zero elsewhere and in columns without a member."""
    kept = torch.where(members, scores, scores.detach().amin(dim=0))
    exponentials = (kept - kept.detach().amax(dim=0)).exp() * members
    # The largest of a column is exp(0), so only a column without members sums to less than one.
    return exponentials / exponentials.sum(dim=0).clamp_min(1.0)


def _extreme(rank: Tensor, members: Tensor, count: int, *, largest: bool) -> Tensor:
    """The ``count`` members of each column [n, k] with the largest (or smallest) ``rank`` [n, 1],
    by falling rank: int64 [count, k], -1 where a column has fewer members."""
    keys = torch.where(members, rank if largest else -rank, -torch.inf)
    if count > 1:
        keys = torch.cat([keys, keys.new_full((count - 1, keys.shape[1]), -torch.inf)])
    indices = keys.topk(count, dim=0).indices
    places = torch.arange(count, device=indices.device)[:, None]
    chosen = torch.where(places < members.sum(dim=0), indices, -1)
    return chosen if largest else chosen.flip(0)
