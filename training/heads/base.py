"""The interface of all heads: a bag of tile features in, logits and attention out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

BagLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits float32 [classes], label) -> loss, a scalar. ``label`` is int64, the index of the class,
or float32 [classes] of zeros and ones where a bag may have several classes or none."""


class HeadOutput(NamedTuple):
    """``logits`` float32 [classes]; ``attention`` float32 [n, k], each column of which sums to one
    over the tiles, or None where the architecture has none."""

    logits: Tensor
    attention: Tensor | None


class DetailedOutput(HeadOutput):
    """The same pair, with what else an architecture computes and its training needs.

    ``instance_logits`` float32 [n, classes] of the tiles themselves, ``coarse_logits`` float32
    [coarse classes]; None where the architecture has none. Graphs carry the pair only.
    """

    instance_logits: Tensor | None
    coarse_logits: Tensor | None

    def __new__(
        cls,
        logits: Tensor,
        attention: Tensor | None,
        *,
        instance_logits: Tensor | None = None,
        coarse_logits: Tensor | None = None,
    ) -> Self:
        output = super().__new__(cls, logits, attention)
        output.instance_logits = instance_logits
        output.coarse_logits = coarse_logits
        return output


class Head(nn.Module, ABC):
    """A multiple-instance head.

    A subclass is one file: it names its ``architecture``, the graph ``inputs`` it uses (of
    ``pathgene_rt.bundle.spec.HEAD_INPUTS``, in the order of :meth:`forward`), and a frozen pydantic
    dataclass of its options, which a checkpoint carries to build the head again. It implements
    :meth:`score`, and :meth:`objective` if it is trained by more than the loss of its logits. What
    else its training needs (a base trained first, a teacher, a schedule) it does in the hooks that
    the loop calls: :meth:`prerequisite`, :meth:`adopt`, :meth:`begin_epoch`, :meth:`after_step`.
    """

    architecture: ClassVar[str]
    inputs: tuple[str, ...] = ("features",)
    has_attention: ClassVar[bool] = True
    Options: ClassVar[type[Any]]

    def __init__(self, in_dim: int, n_classes: int, options: Any) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.n_classes = n_classes
        self.options: dict[str, Any] = asdict(options)

    def forward(
        self,
        features: Tensor,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> HeadOutput:
        """``features`` float32 [n, in_dim] of one bag, n >= 1; ``coords`` int64 [n, 2] (column,
        row) in tiles, ``neighbours`` int64 [n, 8] and ``regions`` int64 [r, 256] as
        :func:`~pathgene_rt.geometry.place_input` makes them, for heads that declare them.

        Raises ValueError if the bag is empty or of another width (not while being exported).
        """
        if not torch.compiler.is_compiling():
            self._check(features)
        return self.score(features, coords, neighbours, regions)

    @abstractmethod
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        """:meth:`forward` for a bag that has been checked."""

    def objective(
        self,
        features: Tensor,
        label: Tensor,
        bag_loss: BagLoss,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
        privileged: Tensor | None = None,  # noqa: ARG002 - for heads that override this
    ) -> Tensor:
        """What training minimises for one bag: a scalar.

        ``label`` is as :data:`BagLoss` takes it. ``privileged`` float32 [k] is what is known of the
        slide in training only (pathway scores), None where it is missing.
        """
        return bag_loss(self(features, coords, neighbours, regions).logits, label)

    def prerequisite(self) -> Head | None:
        """A head that is to be trained first on the same bags, for :meth:`adopt`; None for none."""
        return None

    def adopt(self, base: Head, bags: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Take over what the trained ``base`` has learnt, before this head's own training.

        ``base`` is in eval mode; ``bags`` are the training bags: the inputs that ``base`` declares
        by name, and the label.
        """
        raise NotImplementedError(f"{self.architecture} has no prerequisite")

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, ``epoch`` from 0 of at most ``epochs``."""

    def after_step(self) -> None:
        """Called after each step of the optimizer."""

    def _check(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.in_dim:
            raise ValueError(
                f"features have shape {list(features.shape)}, this head takes [n, {self.in_dim}]"
            )
        if features.shape[0] == 0:
            raise ValueError("the bag is empty; a head needs the features of at least one tile")
