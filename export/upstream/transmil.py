"""TransMIL as szc19990412/TransMIL and PathGene publish it: one layout of keys."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """A state dict tells all of it."""


def layout(published: Published, config: Config) -> Layout:
    module = heads.create(
        "transmil",
        in_dim=published.size("_fc1.0.weight", 1),
        n_classes=published.size("_fc2.weight"),
    )
    return Layout(module=module, prefixes={**BODY, "classifier": "_fc2"})


def nystrom_layer(ours: str, theirs: str) -> dict[str, str]:
    """The prefixes of a Nystrom layer that is ``ours`` here and ``theirs`` in the original."""
    return {
        f"{ours}.norm": f"{theirs}.norm",
        f"{ours}.attention": f"{theirs}.attn",
        f"{ours}.attention.to_out": f"{theirs}.attn.to_out.0",
        f"{ours}.attention.residual": f"{theirs}.attn.res_conv",
    }


BODY = {
    "projection": "_fc1.0",
    "class_token": "cls_token",
    **nystrom_layer("layer1", "layer1"),
    "position": "pos_layer",
    **nystrom_layer("layer2", "layer2"),
}
"""The prefixes of all parts but the classifier."""
