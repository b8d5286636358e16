"""DSMIL: a dual-stream network (B. Li, Y. Li, K. Eliceiri, "Dual-stream Multiple Instance Learning
Network for Whole Slide Image Classification with Self-supervised Contrastive Learning", CVPR 2021).

The defaults are those of the published aggregators: a non-linear query, values that are the
features. PathGene's is ``nonlinear=False``. The logits are the bag stream's; the original can
average their sigmoid with that of the highest instance logit, which graphs leave out.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import linear
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.attention import pool
from pathgene_rt.training.heads.base import BagLoss, DetailedOutput, Head

_QUERY = 128


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DSMILOptions:
    """``nonlinear``: the query has two layers, ReLU and tanh, instead of one linear layer;
    ``passing_v``: values are a layer with ReLU of the features instead of the features."""

    nonlinear: bool = True
    passing_v: bool = False


class DualStream(nn.Module):
    """The instance stream, and the bag stream up to the bag vectors: what DSMIL classifies, and
    what others build on it."""

    def __init__(self, width: int, n_classes: int, *, nonlinear: bool, passing_v: bool) -> None:
        super().__init__()
        self.instance_classifier = nn.Linear(width, n_classes)
        self.query: nn.Module = nn.Linear(width, _QUERY)
        if nonlinear:
            self.query = nn.Sequential(self.query, nn.ReLU(), nn.Linear(_QUERY, _QUERY), nn.Tanh())
        self.value = nn.Linear(width, width) if passing_v else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features float32 [n, width] -> (instance logits [n, classes], attention [n, classes], bag
        vectors [classes, width]).

        The tile with the highest instance logit of a class is its critical instance, the first of
        equals; attention is the softmax over the tiles of how near their queries are to its query.
        """
        instance_logits = self.instance_classifier(features)
        queries = self.query(features)
        critical = queries.index_select(0, instance_logits.argmax(dim=0)) / _QUERY**0.5
        values = features if self.value is None else self.value(features).relu()
        attention, bags = pool(queries @ critical.T, values)
        return instance_logits, attention, bags


class JointClassifier(nn.Conv1d):
    """Bag vectors float32 [classes, in_features], all classes together -> logits [1, classes].

    Published as a convolution: weight [classes, classes, in_features].
    """

    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__(n_classes, n_classes, kernel_size=in_features)
        self.in_features = in_features

    @override
    def forward(self, bags: Tensor) -> Tensor:
        return linear(bags.reshape(1, -1), self.weight.flatten(1), self.bias)


class DSMIL(Head):
    """Attention [n, classes] around each class's critical instance; the bag vectors of all classes
    together are classified linearly."""

    architecture = "dsmil"
    Options = DSMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: DSMILOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.streams = DualStream(
            in_dim, n_classes, nonlinear=options.nonlinear, passing_v=options.passing_v
        )
        self.classifier = JointClassifier(in_dim, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> DetailedOutput:
        instance_logits, attention, bags = self.streams(features)
        return DetailedOutput(self.classifier(bags)[0], attention, instance_logits=instance_logits)

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
        """The mean of the losses of both streams; the instance stream's logits are its highest."""
        output = self(features, coords, neighbours, regions)
        assert isinstance(output, DetailedOutput) and output.instance_logits is not None
        highest = output.instance_logits.amax(dim=0)
        return (bag_loss(output.logits, label) + bag_loss(highest, label)) / 2
