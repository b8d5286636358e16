"""ABMIL as HHHedo/IBMIL and PathGene publish it (one attention over the features themselves), and
the two of DearCaat/MHIM-MIL (``modules/abmil.py``: projected, ungated and gated)."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``act`` follows the projection; ``mil_bias`` says that all layers have a bias."""

    act: Literal["relu"] = "relu"
    mil_bias: Literal[True] = True


def layout(published: Published, config: Config) -> Layout:
    gated = published.has("attention_a")
    tanh = "attention_a.0" if gated else "attention.0"
    projected = published.has("feature")
    classifier = "classifier.0" if gated else "classifier"
    module = heads.create(
        "abmil",
        in_dim=published.size("feature.0.weight" if projected else f"{tanh}.weight", 1),
        n_classes=published.size(f"{classifier}.weight"),
        projection=published.size("feature.0.weight") if projected else 0,
        hidden=published.size(f"{tanh}.weight"),
        gated=gated,
    )
    prefixes = {
        "projection": "feature.0",
        "attention.tanh": tanh,
        "attention.gate": "attention_b.0",
        "attention.score": "attention_c" if gated else "attention.2",
        "classifier": classifier,
    }
    return Layout(module=module, prefixes=prefixes)
