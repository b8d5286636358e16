"""Patch-GCN as mahmoodlab/Patch-GCN publishes it (``models/model_graph_mil.py``) and PathGene's
copy (``Models/PathGCN.py``), saved with any torch_geometric.

Up to 2.0 the temperature is ``conv.t``, later ``conv.aggr_module.t``; up to 2.1 the layers inside a
convolution have biases. The survival model's logits are those of its bins of time.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads

_STAGES = 4


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """``edge_agg`` is which edges its authors' caller passes; ours passes one kind. ``resample`` is
    the share of tiles dropped in training, which their model cannot compute with."""

    num_layers: Literal[4] = 4
    edge_agg: Literal["spatial", "latent"] = "spatial"
    resample: float = Field(default=0.0, ge=0, lt=1)


def layout(published: Published, config: Config) -> Layout:
    if config.resample > 0 or published.has("fc.1"):
        raise CheckpointError(
            "a patchgcn with resample > 0 embeds tiles twice as wide as its graph takes them: it "
            "never ran where it comes from, so there is nothing to reproduce"
        )
    first = "layers.0.conv"
    module = heads.create(
        "patchgcn",
        in_dim=published.size("fc.0.weight", 1),
        n_classes=published.size("classifier.weight"),
        width=published.size("fc.0.weight"),
        convolutions=max(published.count("layers"), 1),
        bias=published.has(f"{first}.mlp.0.bias"),
    )
    temperature = "t" if published.has(f"{first}.t") else "aggr_module.t"
    ours = {"first": first} | {
        f"layers.{number - 1}.conv": f"layers.{number}.conv" for number in range(1, _STAGES - 1)
    }
    inside = {"t": temperature, "widen": "mlp.0", "norm": "mlp.1", "narrow": "mlp.4"}
    prefixes = {
        f"{conv}.{part}": f"{name}.{published_part}"
        for conv, name in ours.items()
        for part, published_part in inside.items()
    }
    prefixes |= {
        f"layers.{number - 1}.norm": f"layers.{number}.norm" for number in range(1, _STAGES - 1)
    }
    prefixes |= {
        "embedding": "fc.0",
        "phi": "path_phi.0",
        "attention.tanh": "path_attention_head.attention_a.0",
        "attention.gate": "path_attention_head.attention_b.0",
        "attention.score": "path_attention_head.attention_c",
        "rho": "path_rho.0",
    }
    # The first convolution is used without the norm that its layer has.
    return Layout(module=module, prefixes=prefixes, unused=("layers.0.norm",))
