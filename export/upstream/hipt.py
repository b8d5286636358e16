"""HIPT's slide level as mahmoodlab/HIPT publishes it
(``2-Weakly-Supervised-Subtyping/models/model_hierarchical_mil.py``) with PathGene's copy of one
form (``Models/HIPT.py``), and the region transformer alone (``HIPT_4K/vision_transformer4k.py``).

The form is told by the tensors: with a region transformer "lgp", with one over regions alone "gp",
else "none".
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads
from pathgene_rt.training.heads.vit4k import RegionTransformer

_SIZES = {"small": 256, "big": 512}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``size_arg`` is told by the tensors and checked if given; ``patches_per_region`` says what a
    full region is. ``regions`` is into how many regions the authors' caller cuts a bag: 1, as
    PathGene does, makes the whole slide one. ``w`` and ``h`` are the tiles along the first and the
    second axis of a region for a region transformer alone."""

    size_arg: Literal["small", "big"] | None = None
    patches_per_region: Literal[256] = 256
    regions: int | None = Field(default=None, ge=1)
    w: int = Field(default=16, ge=1, le=256)
    h: int = Field(default=16, ge=1, le=256)


def layout(published: Published, config: Config) -> Layout:
    if published.has("pos_embed"):
        in_dim = published.size("phi.0.weight", 1)
        alone = RegionTransformer(in_dim, config.w, config.h)
        return Layout(module=alone, prefixes={"phi": "phi.0"})
    form = "none"
    if published.has("global_transformer"):
        form = "lgp" if published.has("local_vit") else "gp"
    width = published.size("global_phi.0.weight")
    if form == "none" and config.size_arg and _SIZES[config.size_arg] != width:
        raise CheckpointError(
            f"this hipt is {width} wide, not {config.size_arg} as the config says"
        )
    first = {"lgp": "local_vit.phi.0", "gp": "global_phi.0", "none": "local_phi.0"}[form]
    options = {"width": width} if form == "none" else {}
    module = heads.create(
        "hipt",
        in_dim=published.size(f"{first}.weight", 1),
        n_classes=published.size("classifier.weight"),
        form=form,
        regions="slide" if form == "none" and config.regions == 1 else "grid",
        **options,
    )
    prefixes = {
        "phi": "global_phi.0",
        "rho": "global_rho.0",
        **_attention("attention", "global_attn_pool"),
        "local": "local_vit",
        "local.phi": first,
        **_attention("local.attention", "local_attn_pool"),
    }
    for number in (0, 1):
        ours, theirs = f"layers.{number}", f"global_transformer.layers.{number}"
        prefixes |= {
            ours: theirs,
            f"{ours}.attention.qkv.weight": f"{theirs}.self_attn.in_proj_weight",
            f"{ours}.attention.qkv.bias": f"{theirs}.self_attn.in_proj_bias",
            f"{ours}.attention.proj": f"{theirs}.self_attn.out_proj",
        }
    return Layout(module=module, prefixes=prefixes)


def _attention(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.tanh": f"{theirs}.attention_a.0",
        f"{ours}.gate": f"{theirs}.attention_b.0",
        f"{ours}.score": f"{theirs}.attention_c",
    }
