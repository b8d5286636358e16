"""Published checkpoints -> our modules. A family of state dicts is a file here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export.upstream.layout import Layout, Published, flatten
from pathgene_rt.training.checkpoint import state_dict_of, unwrapped
from pathgene_rt.training.heads.base import Head

_FAMILIES = {
    "abmil": "abmil",
    "clam_sb": "clam",
    "clam_mb": "clam",
    "clam_mil": "clam_mil",
    "dsmil": "dsmil",
    "dtfd": "dtfd",
    "ibmil": "ibmil",
    "transmil": "transmil",
    "ctranspath": "ctranspath",
    "hipt": "hipt",
    "patchgcn": "patchgcn",
    "rrt": "rrt",
    "hmil": "hmil",
    "mhim": "mhim",
}

HEADS = tuple(_FAMILIES)


def load(head: str, state_dict: Mapping[str, Any], /, **config: Any) -> nn.Module:
    """Our module for a state dict of an original repository, in eval mode with its weights.

    Widths and classes are read off the tensors; ``config`` says what they cannot tell, in the
    names of the family's ``Config`` (its authors' own), and ``d`` and ``n_classes`` to have them
    checked. A :class:`~pathgene_rt.training.heads.base.Head` for every MIL head; the encoder itself
    for "ctranspath" and for a HIPT region transformer without a classifier. Raises
    :class:`UsageError` for an unknown head or config entry and :class:`CheckpointError` with the
    differences if the state dict is of something else.
    """
    return read(head, state_dict, config).module


def read(head: str, state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> Layout:
    """:func:`load`, with what else is known of the published head."""
    if head not in _FAMILIES:
        near = get_close_matches(head, HEADS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(HEADS)}"
        raise UsageError(f"{head!r} names no published architecture; {hint}")
    family = import_module(f"{__name__}.{_FAMILIES[head]}")
    inner = unwrapped(state_dict)
    source = f"the checkpoint of {head}"
    tensors = state_dict_of(flatten(inner) if isinstance(inner, Mapping) else inner, source)
    published = Published(head, tensors)
    sizes = {key: config[key] for key in ("d", "n_classes") if config.get(key) is not None}
    rest = {key: value for key, value in config.items() if key not in ("d", "n_classes")}
    layout: Layout = family.layout(published, _checked(head, family.Config, rest))
    _require_sizes(layout, published, sizes)
    layout.fill(published)
    layout.module.eval()
    return layout


def _checked(head: str, config_class: type[Any], config: Mapping[str, Any]) -> Any:
    try:
        return TypeAdapter(config_class).validate_python(dict(config))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ["d", "n_classes", *config_class.__dataclass_fields__]
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise UsageError(
                f"a published {head} has no config entry {name}; it takes {', '.join(known)}"
            ) from error
        raise UsageError(
            f"a published {head}: config entry {name} = {first['input']!r} does not fit: "
            f"{first['msg']}"
        ) from error


def _require_sizes(layout: Layout, published: Published, sizes: Mapping[str, int]) -> None:
    module = layout.module
    if not isinstance(module, Head):
        return
    for key, ours in (
        ("d", module.in_dim),
        ("n_classes", layout.stated_classes or module.n_classes),
    ):
        if sizes.get(key, ours) != ours:
            raise CheckpointError(
                f"this {published.head} has {key} = {ours}, not {sizes[key]} as the config says"
            )
