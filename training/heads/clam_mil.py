"""The max-instance baseline of the CLAM repository (``models/model_mil.py``): one tile is the bag.

With two classes it is the tile most probably of class 1, with one class the tile of the highest
logit, with more the tile that is surest of any class. It has no attention.
"""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.training.heads.base import DetailedOutput, Head
from pathgene_rt.training.heads.dropout import BagDropout


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClamMILOptions:
    """``embedding`` is the width of the embedded features, ``dropout`` acts on them in training."""

    embedding: int = Field(default=512, ge=1, le=8192)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class ClamMIL(Head):
    """Classifies every tile; the logits of the top tile are the bag's. The first of equals wins."""

    architecture = "clam_mil"
    has_attention = False
    Options = ClamMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: ClamMILOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.embedding = nn.Linear(in_dim, options.embedding)
        self.dropout = BagDropout(options.dropout)
        self.classifier = nn.Linear(options.embedding, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> DetailedOutput:
        instance_logits = self.classifier(self.dropout(self.embedding(features).relu()))
        # As a column: TensorRT picks from no tensor of one axis.
        top = self._evidence(instance_logits).unsqueeze(1).argmax(dim=0)
        logits = instance_logits.index_select(0, top)[0]
        return DetailedOutput(logits, None, instance_logits=instance_logits)

    def _evidence(self, instance_logits: Tensor) -> Tensor:
        """float32 [n] from [n, classes]: in the order of the probabilities that the rule compares.

        Of two classes the difference of logits, where probabilities would all round to one.
        """
        if self.n_classes == 1:
            return instance_logits[:, 0]
        if self.n_classes == 2:
            return instance_logits[:, 1] - instance_logits[:, 0]
        return instance_logits.softmax(dim=1).amax(dim=1)
