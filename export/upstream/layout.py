"""A published state dict, and how its keys are those of one of our modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict
from torch import Tensor, nn

from pathgene_rt.bundle.calibration import Activation
from pathgene_rt.errors import CheckpointError
from pathgene_rt.training.checkpoint import load_strictly

CONFIG = ConfigDict(extra="forbid")
"""Of the dataclass with what a state dict of a family cannot tell, as its authors name it."""

_KEYS_SHOWN = 12


@dataclass(frozen=True)
class Published:
    """The tensors of a state dict by their published names, and the ``head`` they are taken for."""

    head: str
    tensors: Mapping[str, Tensor]

    def has(self, prefix: str) -> bool:
        """Whether any key is ``prefix`` or lies under it."""
        return any(key == prefix or key.startswith(f"{prefix}.") for key in self.tensors)

    def count(self, prefix: str) -> int:
        """How many numbered parts lie under ``prefix``: "layers" of layers.0 to layers.2 is 3."""
        under = (key.removeprefix(f"{prefix}.") for key in self.tensors if self.has(prefix))
        return len({rest.split(".")[0] for rest in under if rest.split(".")[0].isdigit()})

    def size(self, key: str, axis: int = 0) -> int:
        """The length of ``axis`` of a tensor. Raises CheckpointError if there is no such tensor."""
        tensor = self.tensors.get(key)
        if tensor is None:
            raise CheckpointError(
                f"this is no {self.head}: the key {key} is missing; "
                f"there are {_listed(self.tensors)}"
            )
        if tensor.ndim <= axis:
            raise CheckpointError(
                f"this is no {self.head}: {key} has the shape {list(tensor.shape)}"
            )
        return int(tensor.shape[axis])


def require_told(published: Published, config: object, told: Mapping[str, object]) -> None:
    """Refuse a ``config`` that says otherwise than the tensors tell, by name; None says nothing."""
    for name, ours in told.items():
        stated = getattr(config, name)
        if stated is not None and stated != ours:
            raise CheckpointError(
                f"this {published.head} has {name} = {ours}, not {stated} as the config says"
            )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each tensor of a published state dict belongs.

    ``module`` is ours, built with the published sizes. ``prefixes`` says for each of its parts
    under what published name it lies: ``{"attention.tanh": "attention.0"}``; parts of one name on
    both sides are left out. ``unused`` are published names that play no part in our module;
    ``optional`` are the last parts of names that a file may lack: construction gives their tensors.
    ``stated_classes`` is what its authors' ``n_classes`` says if that is not the number of logits.
    ``activation`` is how its authors turn logits into probabilities.
    """

    module: nn.Module
    prefixes: Mapping[str, str]
    unused: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    stated_classes: int | None = None
    activation: Activation = "softmax"

    def fill(self, published: Published) -> None:
        """Load ``published`` into the module, all of it.

        Raises :class:`CheckpointError` with what is missing, unexpected or of another shape, in the
        published names.
        """
        constructed = self.module.state_dict()
        names = {ours: self.published_name(ours) for ours in constructed}
        missing = sorted(
            name
            for name in set(names.values()) - published.tensors.keys()
            if name.rpartition(".")[2] not in self.optional
        )
        unexpected = sorted(
            key
            for key in published.tensors.keys() - set(names.values())
            if not any(key == name or key.startswith(f"{name}.") for name in self.unused)
        )
        if missing or unexpected:
            raise CheckpointError(
                f"this is no {published.head}: missing {_listed(missing)}; "
                f"unexpected {_listed(unexpected)}"
            )
        state = {
            ours: published.tensors.get(name, constructed[ours]) for ours, name in names.items()
        }
        load_strictly(self.module, state, f"the published {published.head}")

    def published_name(self, ours: str) -> str:
        """The published name of our tensor ``ours``: its longest known prefix exchanged."""
        parts = ours.split(".")
        for length in range(len(parts), 0, -1):
            prefix = ".".join(parts[:length])
            if prefix in self.prefixes:
                return ".".join([self.prefixes[prefix], *parts[length:]])
        return ours


def flatten(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """State dicts within a dict joined to one: {"attention": {"w": t}} is {"attention.w": t}."""
    flat: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _listed(keys: Any) -> str:
    names = list(keys)
    shown = ", ".join(names[:_KEYS_SHOWN]) or "nothing"
    more = len(names) - _KEYS_SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
