"""RRT-MIL as DearCaat/RRT-MIL publishes it (``modules/rrt.py``)."""

from __future__ import annotations

from typing import TypeVar

from pydantic.dataclasses import dataclass

from pathgene_rt.export.upstream.layout import CONFIG, Layout, Published
from pathgene_rt.training import heads
from pathgene_rt.training.heads.bias_free_attention import Activation

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Config:
    """The arguments of ``RRTMIL``. What None stands for is read off the tensors."""

    region_num: int = 8
    n_layers: int | None = None
    n_heads: int = 8
    epeg: bool | None = None
    epeg_k: int | None = None
    crmsa_k: int | None = None
    crmsa_heads: int = 8
    crmsa_mlp: bool | None = None
    ffn: bool | None = None
    all_shortcut: bool = False
    da_act: Activation = "relu"
    da_gated: bool | None = None


def layout(published: Published, config: Config) -> Layout:
    across = "online_encoder.cr_msa"
    mlp = _chosen(config.crmsa_mlp, published.has(f"{across}.attn.phi.0"))
    gated = _chosen(config.da_gated, published.has("pool_fn.attention.attention_a"))
    layers = _chosen(config.n_layers, published.count("online_encoder.layers") + 1)
    within = [f"online_encoder.layers.{number}" for number in range(layers - 1)]
    phi = f"{across}.attn.phi.2.weight" if mlp else f"{across}.attn.phi"
    module = heads.create(
        "rrt",
        in_dim=published.size("patch_to_emb.0.weight", 1),
        n_classes=published.size("predictor.weight"),
        region_num=config.region_num,
        n_layers=layers,
        n_heads=config.n_heads,
        epeg_k=_epeg_k(published, config),
        crmsa_k=_chosen(config.crmsa_k, published.size(phi, 0 if mlp else 1)),
        crmsa_heads=config.crmsa_heads,
        crmsa_mlp=mlp,
        ffn=_chosen(config.ffn, published.has(f"{across}.mlp")),
        all_shortcut=config.all_shortcut,
        da_act=config.da_act,
        da_gated=gated,
    )
    pooling = "pool_fn.attention"
    prefixes = {
        "embedding": "patch_to_emb.0",
        "norm": "online_encoder.norm",
        "attention.hidden": f"{pooling}.attention_a.0" if gated else f"{pooling}.attention.0",
        "attention.gate": f"{pooling}.attention_b.0",
        "attention.score": f"{pooling}.attention_c" if gated else f"{pooling}.attention.2",
        "classifier": "predictor",
    }
    for number, layer in enumerate([*within, across]):
        ours = f"layers.{number}"
        prefixes |= {
            ours: layer,
            f"{ours}.attention.phi": f"{layer}.attn.phi",
            f"{ours}.attention.attention": f"{layer}.attn.attn",
            f"{ours}.attention.attention.epeg": f"{layer}.attn.attn.pe.weight",
            f"{ours}.feed_forward.0": f"{layer}.norm2",
            f"{ours}.feed_forward.1": f"{layer}.mlp.fc1",
            f"{ours}.feed_forward.4": f"{layer}.mlp.fc2",
        }
    # A bias of EPEG adds the same to all logits of a query: softmax removes it.
    unused = tuple(f"{layer}.attn.attn.pe.bias" for layer in within)
    return Layout(module=module, prefixes=prefixes, unused=unused)


def _epeg_k(published: Published, config: Config) -> int:
    kernel = "online_encoder.layers.0.attn.attn.pe.weight"
    present = published.has(kernel)
    if not _chosen(config.epeg, present):
        return 0
    return _chosen(config.epeg_k, published.size(kernel, 2))


def _chosen(given: _Value | None, found: _Value) -> _Value:
    return found if given is None else given
