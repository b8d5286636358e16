"""DTFD-MIL as hrzhang1123/DTFD-MIL saves it, and its variants without a confounder dictionary in
HHHedo/IBMIL and PathGene: a dict of four state dicts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published, require_told
from pathgene_rt.training import heads

_REDUCTIONS = ("dim_reduction", "dimReduction")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class TierConfig:
    """The options of the original's training script; ``mDim`` and ``numLayer_Res`` are checked."""

    distill: Literal["AFS", "MaxS", "MaxMinS"] = "AFS"
    numGroup: int = Field(default=4, ge=1)  # noqa: N815 (its authors' name)
    total_instance: int = Field(default=4, ge=1)
    mDim: int | None = None  # noqa: N815
    numLayer_Res: int | None = None  # noqa: N815


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config(TierConfig):
    """``confounders`` is an option of IBMIL's and PathGene's script alone, which ranks tiles by a
    sigmoid in place of the softmax: give 0 for a checkpoint of theirs."""

    confounders: Literal[0] | None = None


def layout(published: Published, config: Config) -> Layout:
    ranking = "softmax" if config.confounders is None else "sigmoid"
    classifier = group_name(published, "classifier")
    second_tier = group_name(published, "att_classifier")
    module = heads.create(
        "dtfd",
        in_dim=in_dim(published),
        n_classes=published.size(f"{classifier}.fc.weight"),
        **options(published, config),
        ranking=ranking,
    )
    return Layout(
        module=module,
        prefixes={**prefixes(published), "classifier": f"{second_tier}.classifier.fc"},
        activation="softmax" if config.confounders is None else "sigmoid",
    )


def options(published: Published, config: TierConfig) -> dict[str, Any]:
    """Options of our DTFD but for the ranking. Raises CheckpointError if ``config`` contradicts the
    tensors or leaves a pseudo-bag nothing to distil."""
    reduction = group_name(published, *_REDUCTIONS)
    hidden, width = (
        published.size(f"{group_name(published, 'attention')}.attention_V.0.weight", axis)
        for axis in (0, 1)
    )
    blocks = published.count(f"{reduction}.resBlocks")
    require_told(published, config, {"mDim": width, "numLayer_Res": blocks})
    if config.distill != "AFS" and config.total_instance < config.numGroup:
        raise CheckpointError(
            f"total_instance = {config.total_instance} tiles cannot be distilled from "
            f"numGroup = {config.numGroup} pseudo-bags; give at least one each"
        )
    return {
        "projection": width if published.has(f"{reduction}.fc1") else 0,
        "residual_blocks": blocks,
        "hidden": hidden,
        "groups": config.numGroup,
        "distillation": config.distill,
        "per_group": max(config.total_instance // config.numGroup, 1),
    }


def in_dim(published: Published) -> int:
    """The width of the features: where they are not projected, that of the first attention."""
    reduction = group_name(published, *_REDUCTIONS)
    if published.has(f"{reduction}.fc1"):
        return published.size(f"{reduction}.fc1.weight", 1)
    return published.size(f"{group_name(published, 'attention')}.attention_V.0.weight", 1)


def prefixes(published: Published) -> dict[str, str]:
    """:attr:`Layout.prefixes` of all parts but the second tier's classifier."""
    reduction = group_name(published, *_REDUCTIONS)
    names = {
        "projection": f"{reduction}.fc1",
        "pseudo_bag_classifier": f"{group_name(published, 'classifier')}.fc",
    }
    for number in range(published.count(f"{reduction}.resBlocks")):
        names[f"residual_blocks.{number}"] = f"{reduction}.resBlocks.{number}.block"
    for ours, theirs in (
        ("pseudo_bag_attention", group_name(published, "attention")),
        ("attention", f"{group_name(published, 'att_classifier')}.attention"),
    ):
        names[f"{ours}.tanh"] = f"{theirs}.attention_V.0"
        names[f"{ours}.gate"] = f"{theirs}.attention_U.0"
        names[f"{ours}.score"] = f"{theirs}.attention_weights"
    return names


def group_name(published: Published, *names: str) -> str:
    """Under which of ``names`` one of the four state dicts lies, the first if under none; with
    ``.module`` where it was trained data-parallel."""
    name = next((name for name in names if published.has(name)), names[0])
    return f"{name}.module" if published.has(f"{name}.module") else name
