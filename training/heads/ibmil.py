"""IBMIL: a base head whose bag vector is adjusted for confounders (T. Lin et al., "Interventional
Bag Multi-Instance Learning On Whole-Slide Pathological Images", CVPR 2023).

The base is trained first; the centres of its bag vectors' clusters over the training bags become
the confounder dictionary; then a new base of the same kind is trained whose classifier sees the
bag vector beside what that attends to in the dictionary (backdoor adjustment). The training loop
does so by :meth:`IBMIL.prerequisite` and :meth:`IBMIL.adopt`; without them the dictionary is noise.

The base's defaults are those of IBMIL's scripts, which differ from the base's own: ABMIL pools the
features themselves without a gate, DSMIL's query is linear, DTFD distils MaxMinS at half the width
and ranks by a sigmoid. PathGene's IBMIL is ``base="dtfd"``. Of the original's training, dropout on
the dictionary in the class-agnostic DSMIL is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.errors import UsageError
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import BagLoss, Head, HeadOutput
from pathgene_rt.training.heads.confounders import Confounders, Merge
from pathgene_rt.training.heads.dsmil import JointClassifier
from pathgene_rt.training.heads.dtfd import DTFD


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IBMILOptions:
    """``base`` and what its options are to be in place of IBMIL's. The dictionary has
    ``confounders`` entries, is attended in ``hidden`` dimensions, and what a bag sees in it is
    concatenated to the bag vector, added or subtracted (``merge``). It stays as it is in training
    unless ``learnable``.

    ``class_specific`` (DSMIL): each class's bag vector has a dictionary of its own.
    ``joint_norm`` (TransMIL, the original's "nn"): the class token attends without its
    normalisation, which acts on the concatenation instead.
    """

    base: Literal["abmil", "dsmil", "transmil", "dtfd"] = "abmil"
    base_options: dict[str, Any] = Field(default_factory=dict)
    confounders: int = Field(default=8, ge=1, le=4096)
    hidden: int = Field(default=128, ge=1, le=8192)
    merge: Merge = "cat"
    learnable: bool = False
    class_specific: bool = False
    joint_norm: bool = False


class IBMIL(Head):
    """The base, its classifier exchanged for :class:`Backdoor`. What it returns is the base's: its
    ``attention`` is over the tiles, where the original returns that over the dictionary."""

    architecture = "ibmil"
    Options = IBMILOptions

    def __init__(self, in_dim: int, n_classes: int, options: IBMILOptions) -> None:
        for option, only in (("class_specific", "dsmil"), ("joint_norm", "transmil")):
            if getattr(options, option) and options.base != only:
                raise UsageError(f"ibmil: {option} is for the base {only}, not {options.base}")
        chosen = {**_base_defaults(options.base, in_dim), **options.base_options}
        base = heads.create(options.base, in_dim=in_dim, n_classes=n_classes, **chosen)
        super().__init__(in_dim, n_classes, replace(options, base_options=base.options))
        self.base = base
        self.base.classifier = Backdoor(base.get_submodule("classifier"), n_classes, options)
        if options.joint_norm:
            self.base.norm = nn.Identity()

    @override
    def forward(
        self,
        features: Tensor,
        coords: Tensor | None = None,
        neighbours: Tensor | None = None,
        regions: Tensor | None = None,
        permutation: Tensor | None = None,
    ) -> HeadOutput:
        """``permutation`` int64 [n] is for the base dtfd, as :meth:`DTFD.forward` takes it; with
        another base it raises ValueError."""
        if permutation is None:
            return super().forward(features, coords, neighbours, regions)
        if not isinstance(self.base, DTFD):
            raise ValueError(f"the base {self.base.architecture} takes no permutation")
        return self.base.forward(features, coords, neighbours, regions, permutation)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        return self.base.score(features, coords, neighbours, regions)

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
        return self.base.objective(
            features, label, bag_loss, coords, neighbours, regions, privileged
        )

    @override
    def prerequisite(self) -> Head:
        return heads.create(
            self.base.architecture,
            in_dim=self.in_dim,
            n_classes=self.n_classes,
            **self.base.options,
        )

    @override
    def adopt(self, base: Head, bags: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Fill the dictionary with the clusters of the base's bag vectors. Raises UsageError if
        there are fewer different ones than confounders."""
        vectors: list[Tensor] = []
        classifier = base.get_submodule("classifier")
        hook = classifier.register_forward_pre_hook(lambda _, taken: vectors.append(taken[0]))
        try:
            with torch.no_grad():
                for inputs, _ in bags:
                    base(**inputs)
        finally:
            hook.remove()
        confounders = self.base.get_submodule("classifier.confounders")
        assert isinstance(confounders, Confounders)
        confounders.fill(torch.stack([each.reshape(-1, confounders.width) for each in vectors]))


class Backdoor(nn.Module):
    """In the place of a base's ``classifier``, of which it has a wider copy: bag vectors as that
    takes them -> logits as that returns them."""

    def __init__(self, classifier: nn.Module, n_classes: int, options: IBMILOptions) -> None:
        super().__init__()
        joint = isinstance(classifier, JointClassifier)
        assert isinstance(classifier, JointClassifier | nn.Linear)
        self.confounders = Confounders(
            options.confounders,
            classifier.in_features,
            hidden=options.hidden,
            merge=options.merge,
            classes=n_classes if options.class_specific else None,
            learnable=options.learnable,
        )
        width = self.confounders.merged_width
        self.norm = nn.LayerNorm(width) if options.joint_norm else nn.Identity()
        self.classifier = (
            JointClassifier(width, n_classes) if joint else nn.Linear(width, n_classes)
        )

    @override
    def forward(self, bags: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.norm(self.confounders(bags)))
        return logits


def _base_defaults(base: str, in_dim: int) -> dict[str, Any]:
    """What IBMIL's scripts make of each base."""
    defaults: dict[str, dict[str, Any]] = {
        "abmil": {"projection": 0, "hidden": in_dim, "gated": False, "dropout": 0.0},
        "dsmil": {"nonlinear": False},
        "transmil": {},
        "dtfd": {
            "projection": max(in_dim // 2, 1),
            "distillation": "MaxMinS",
            "ranking": "sigmoid",
        },
    }
    return defaults[base]
